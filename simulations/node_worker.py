"""A node's worker: takes the tasks of its SuperNode and answers them in one process that stays.

Flower's own worker starts a process for every message. Each would import torch and read the node's data anew, and would
forget how often its devices took part, which the participation cap rests on. It would also install and run whatever
code the coordinator sends along. This one runs the installed package and nothing else.

Source: flwr 1.41, `supernode/runtime/run_clientapp.py` and `supercore/superexec/run_superexec.py`.
"""

import logging
import time
from dataclasses import dataclass

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from sottovoce.privacy.errors import SottovoceError

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True, slots=True)
class Worker:
    """Works for one SuperNode on the same machine, over loopback.

    Attributes:
        supernode: ADDRESS:PORT of its Runtime API.
        secret: shared with the SuperNode, so that no other program of the machine takes its tasks.
        app: answers the messages.
    """

    supernode: str
    secret: bytes
    app: ClientApp

    def work(self) -> None:
        """Take tasks until the process is ended; waits for a SuperNode that is not up yet."""
        asking = self._client(SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods={_ACQUIRE}))
        while True:
            found = asking.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            if found.HasField("task") and found.token:
                self._answer(found.token)
            else:
                time.sleep(_LOOK_AGAIN_S)

    def _client(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.supernode,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), *interceptors],
            retry_invoker=make_simple_http_retry_invoker(),
        )

    def _answer(self, token: str) -> None:
        """One task from its message to its reply; whatever goes wrong is told, and the next task is taken."""
        client = self._client(RuntimeTokenHttpInterceptor(token))
        alive = HeartbeatSender(make_task_heartbeat_fn_http(client))
        alive.start()
        context, details = None, ""
        try:
            message, context, _, _ = pull_task_input(client)
            push_message(client, self._reply(message, context), context)
        except Exception as error:
            log.exception("a task was lost")
            details = type(error).__name__
        finally:
            push_task_output(client, context, SubStatus.FAILED if details else SubStatus.COMPLETED, details)
            alive.stop()
            client.close()

    def _reply(self, message: Message, context: Context) -> Message:
        """The app's reply; of an unexpected failure the coordinator learns no more than its kind."""
        try:
            return self.app(message, context)
        except SottovoceError as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, error.what), reply_to=message)
        except Exception as error:
            log.exception("the app failed")
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
