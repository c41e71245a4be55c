"""What runs in a process of its own for `worker_process`: a worker that is given tasks and tells what becomes of them.

Its arguments are the descriptors of its connection and of a pipe that lives as long as the process it works for.
"""

import logging
import sys
from multiprocessing.connection import Connection

from clipmill.pipelines.decode.child import die_with_parent
from clipmill.pipelines.features.worker import Worker
from clipmill.pipelines.worker_errors import tell
from clipmill.schemas.secrets import MaskedStream


def main() -> None:
    """Serves until the connection ends."""
    descriptor, life = (int(argument) for argument in sys.argv[1:])
    die_with_parent(life)
    sys.stderr = MaskedStream(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with Connection(descriptor) as connection:
        try:
            _serve(connection)
        except EOFError:
            return
        except BaseException as error:
            connection.send(("error", tell(error)))


def _serve(connection: Connection) -> None:
    with Worker(connection.recv()) as worker:
        while True:
            task, one_by_one = connection.recv()
            result = worker.run(task, lambda video_id: connection.send(("video", video_id)), one_by_one)
            connection.send(("result", result))


if __name__ == "__main__":
    main()
