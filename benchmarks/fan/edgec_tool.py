"""edgec's own part of benchmarks/fanout.py: one job on all hosts of an SSH configuration, in threads. The agents get a Python that has no
packages, as on a board.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.session import open_session
from edgec.targets.ssh import SshTransport


def main(job: str, hosts: int, at_once: int, config: Path, file: Path) -> int:
    """The number of hosts that failed."""
    bare = str(Path(sys.base_prefix, "bin", "python3"))
    targets = [TargetSettings(name=f"h{index}", ssh_config=config, python=bare) for index in range(hosts)]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    def command(target: TargetSettings) -> bool:
        transport = SshTransport(target)
        try:
            transport.connect()
            return transport.run(["true"], timeout_s=60)[0] == 0
        finally:
            transport.close()

    def deploy(target: TargetSettings) -> bool:
        with open_session(target) as session:
            session.ship({digest: file})
            session.stage("app", "r1", {}, {"model.onnx": digest})
            session.activate("app", "r1")
        return True

    def attempt(target: TargetSettings) -> bool:
        try:
            return (command if job == "command" else deploy)(target)
        except EdgecError as error:
            print(f"{target.name}: {error.what}", file=sys.stderr)
            return False

    with ThreadPoolExecutor(max_workers=at_once) as pool:
        return hosts - sum(pool.map(attempt, targets))


if __name__ == "__main__":
    print("failures", main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5])))
