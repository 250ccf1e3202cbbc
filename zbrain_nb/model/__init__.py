"""The vocabulary: jobs, states, events, errors, the worker protocol, settings.

Everything else imports this package; it imports nothing of zbrain_nb but itself.
"""
