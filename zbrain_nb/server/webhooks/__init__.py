"""Webhooks: tells a receiver outside that jobs of an org ended.

`notifier` decides who is told what and when, `posting` sends it and sees to it that it goes nowhere else. Both run on
the host's loop, and wait for the receiver without holding anything up: a notifier is a follower of events like any
other, and one that falls behind reads what it missed from the store.
"""

from zbrain_nb.server.webhooks.notifier import Notifier

__all__ = ["Notifier"]
