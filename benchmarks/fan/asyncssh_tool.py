"""The floor of benchmarks/fanout.py: a bare asyncssh loop, one connection a host, host keys checked. A deploy uploads to a temporary name,
compares SHA-256 on the host and renames; one that finds the digest there already sends nothing.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

import asyncssh  # in an environment of its own, see benchmarks/fan/requirements.txt


async def one(job: str, name: str, config: str, file: Path, digest: str) -> None:
    """The job on one host."""
    target = Path(config).parent / name[1:] / "home" / "model.onnx"
    part = target.with_name("model.part")
    async with asyncssh.connect(name, config=[config]) as connection:
        if job == "command":
            await connection.run("true", check=True)
            return
        if str((await connection.run(f"sha256sum {target} 2>/dev/null | cut -c1-64", check=True)).stdout).strip() == digest:
            return
        async with connection.start_sftp_client() as sftp:
            await sftp.put(str(file), str(part))
        there = await connection.run(f"sha256sum {part} | cut -c1-64 && sync {part} && mv {part} {target}", check=True)
        if str(there.stdout).strip() != digest:
            raise ValueError("other bytes arrived")


async def main(job: str, hosts: int, at_once: int, config: str, file: Path) -> int:
    """The number of hosts that failed."""
    digest, gate = hashlib.sha256(file.read_bytes()).hexdigest(), asyncio.Semaphore(at_once)

    async def attempt(index: int) -> bool:
        async with gate:
            try:
                await one(job, f"h{index}", config, file, digest)
            except (OSError, asyncssh.Error, ValueError) as error:
                print(f"h{index}: {error}", file=sys.stderr)
                return False
            return True

    return hosts - sum(await asyncio.gather(*(attempt(index) for index in range(hosts))))


if __name__ == "__main__":
    print("failures", asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))))
