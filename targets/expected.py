"""Whether the board that answers is the one that deploy.toml names."""

import difflib

from edgec.pipeline.core.errors import ConfigError, TargetError
from edgec.pipeline.core.records import TargetFacts
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.agent.identity import families


def known_boards() -> dict[str, str]:
    """Id to name of every board in `targets/boards/`."""
    return {board.id: board.name for family in families() for board in family.boards}


def require_known(target: TargetSettings) -> None:
    """Raises ConfigError: `board` names no board."""
    known = known_boards()
    if target.board and target.board not in known:
        near = difflib.get_close_matches(target.board, known, n=1)
        raise ConfigError(
            f"{target.name}: there is no board {target.board!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"known boards: {', '.join(sorted(known))}",
        )


def mismatch(target: TargetSettings, facts: TargetFacts) -> str:
    """What answers instead of the expected board; empty when it is the one, or when none is expected."""
    if not target.board or target.board == facts.board_id:
        return ""
    found = f"a {facts.board_id} ({facts.board})" if facts.board_id else f"no board that edgec knows ({facts.board}, {facts.machine})"
    wanted = known_boards().get(target.board, "board that does not exist")
    return f'{target.name} is configured as a {wanted} (board = "{target.board}"), and what answers is {found}'


def require_board(target: TargetSettings, facts: TargetFacts) -> None:
    """Stop before anything is trained for, or sent to, another board than the one meant.

    Raises:
        ConfigError: `board` names no board. TargetError: another board answers.
    """
    require_known(target)
    if what := mismatch(target, facts):
        raise TargetError(
            what,
            hint="check its host and port; or correct board in its [[target]] table",
            context={"expected": target.board, "found": facts.board_id or facts.board},
        )
