"""A kernel whose cells are lists of orders, one a line: a verb and its text. Run as a kernelspec says."""

from __future__ import annotations

import os
import time
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class EchoKernel(Kernel):
    implementation = "echo"
    implementation_version = "1"
    banner = "echo"
    language_info = {"name": "echo", "mimetype": "text/plain", "file_extension": ".txt"}  # noqa: RUF012

    def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        reply: dict[str, Any] = {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
        for line in code.splitlines():
            verb, _, text = line.partition(" ")
            try:
                getattr(self, f"order_{verb}")(text, reply)
            except (RuntimeError, KeyboardInterrupt) as error:
                told = {"ename": type(error).__name__, "evalue": str(error), "traceback": ["here", str(error)]}
                if text != "quietly":
                    self.publish("error", told)
                return {"status": "error", **told, "execution_count": 1}
        return reply

    def publish(self, kind: str, content: dict[str, Any]) -> None:
        self.send_response(self.iopub_socket, kind, content)

    def order_out(self, text: str, _: Any) -> None:
        self.publish("stream", {"name": "stdout", "text": f"{text}\n"})

    def order_flood(self, count: str, _: Any) -> None:
        for number in range(int(count)):
            self.publish("stream", {"name": "stdout", "text": f"{number}\n"})

    def order_err(self, text: str, _: Any) -> None:
        self.publish("stream", {"name": "stderr", "text": f"{text}\n"})

    def order_past(self, text: str, _: Any) -> None:
        os.write(1, f"{text}\n".encode())

    def order_where(self, name: str, reply: Any) -> None:
        self.order_out(f"{os.getcwd()} {os.environ.get(name)}", reply)

    def order_show(self, text: str, _: Any) -> None:
        data = {"text/html": f"<b>{text}</b>", "text/plain": text}
        self.publish("display_data", {"data": data, "metadata": {}, "transient": {"display_id": "one"}})

    def order_update(self, text: str, _: Any) -> None:
        content = {"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": "one"}}
        self.publish("update_display_data", content)

    def order_clear(self, _: str, __: Any) -> None:
        self.publish("clear_output", {"wait": True})

    def order_value(self, text: str, _: Any) -> None:
        self.publish("execute_result", {"data": {"text/plain": text}, "metadata": {}, "execution_count": 1})

    def order_json(self, text: str, _: Any) -> None:
        data = {"text/plain": text, "application/json": {"said": text}}
        self.publish("execute_result", {"data": data, "metadata": {}, "execution_count": 1})

    def order_page(self, text: str, reply: Any) -> None:
        reply["payload"].append({"source": "page", "start": 0, "data": {"text/plain": text}})

    def order_fail(self, text: str, _: Any) -> None:
        raise RuntimeError(text)

    def order_wait(self, _: str, __: Any) -> None:
        self.log.setLevel("CRITICAL")
        time.sleep(1000)

    def order_die(self, number: str, _: Any) -> None:
        os.kill(os.getpid(), int(number))

    def order_ask(self, prompt: str, _: Any) -> None:
        """Ask although the client has said that nobody is there, and wait for ever."""
        content = {"prompt": prompt, "password": False}
        ident = self._parent_ident["shell"]
        self.session.send(self.stdin_socket, "input_request", content, self.get_parent("shell"), ident=ident)
        time.sleep(1000)

    async def interrupt_request(self, *arguments: Any) -> None:
        os.write(1, b"interrupted by a message\n")
        await super().interrupt_request(*arguments)


class EchoApp(IPKernelApp):
    def init_iopub(self, context: Any) -> None:
        context.sndhwm = 0  # it drops nothing itself
        super().init_iopub(context)


if __name__ == "__main__":
    EchoApp.launch_instance(kernel_class=EchoKernel)
