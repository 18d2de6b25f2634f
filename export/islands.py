"""Which results must stay float32 for a 16-bit graph to keep its gate: the fewest, found by bisection, and proved.

No proper part of what is found is enough, as far as leaving out one at a time can show; another set may be as small.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .rounding import role_of

# what is outside the gate with these nodes in float32, figure by figure; nothing if it is kept
Judge = Callable[[frozenset[str]], tuple[str, ...]]


# what is left out or kept at once: a node, or all nodes that have one role, in a quarter of the trials
Grain = Literal["nodes", "roles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """What must be float32, and what fails if it alone is not."""

    name: str  # of a node, or of a role
    op_type: str
    nodes: tuple[str, ...]
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Islands:
    """A set that brings a graph back into its gate, with as many judgements as it took."""

    islands: tuple[Island, ...]
    judged: int


class _Trials:
    """Judgements, each made once."""

    def __init__(self, judge: Judge, announce: Callable[[str], None]) -> None:
        self._judge, self._announce = judge, announce
        self.known: dict[frozenset[str], tuple[str, ...]] = {}

    def faults(self, names: Iterable[str]) -> tuple[str, ...]:
        tried = frozenset(names)
        if tried not in self.known:
            self._announce(f"trial {len(self.known) + 1}: {len(tried)} results in float32")
            self.known[tried] = self._judge(tried)
        return self.known[tried]

    def passes(self, names: Iterable[str]) -> bool:
        return not self.faults(names)


def find_islands(
    op_types: Mapping[str, str],
    judge: Judge,
    announce: Callable[[str], None] = lambda _: None,
    *,
    grain: Grain = "nodes",
) -> Islands | None:
    """The fewest of the nodes `op_types` names, cheapest first, without which `judge` finds faults.

    None if all of them together are not enough: then it is not precision that is missing. First come the roles that
    nodes have in every block, then the nodes of those roles; then each is left out once more.
    """
    trials = _Trials(judge, announce)
    if not trials.passes(op_types):
        return None
    roles: dict[str, list[str]] = {}
    for name in op_types:
        roles.setdefault(role_of(name), []).append(name)
    groups = {role: roles[role] for role in _bisect(lambda kept: trials.passes(_members(roles, kept)), list(roles))}
    if not trials.passes(_members(groups, groups)):
        groups = roles
    if grain == "nodes":
        groups = {name: [name] for name in _members(groups, groups)}
        fewer = _bisect(trials.passes, list(groups))
        groups = {name: [name] for name in fewer} if trials.passes(fewer) else groups
    names = _leave_out(trials, groups, list(groups))
    islands = tuple(
        Island(
            name=name,
            op_type=op_types[groups[name][0]],
            nodes=tuple(groups[name]),
            without=trials.faults(_members(groups, [other for other in names if other != name])),
        )
        for name in names
    )
    return Islands(islands=islands, judged=len(trials.known))


def _members(groups: Mapping[str, list[str]], names: Iterable[str]) -> list[str]:
    return [member for name in names for member in groups[name]]


def _bisect(passes: Callable[[Sequence[str]], bool], names: list[str]) -> list[str]:
    """Junker's QuickXplain: a smallest part of `names` that passes, early ones preferred, if more never fails."""
    if passes([]):
        return []

    def search(kept: list[str], is_changed: bool, rest: list[str]) -> list[str]:
        if is_changed and passes(kept):
            return []
        if len(rest) == 1:
            return rest
        half = len(rest) // 2
        late = search(kept + rest[:half], True, rest[half:])
        early = search(kept + late, bool(late), rest[:half])
        return early + late

    return search([], False, names)


def _leave_out(trials: _Trials, groups: Mapping[str, list[str]], names: list[str]) -> list[str]:
    """`names` without each that can go, until none can."""
    for name in names:
        rest = [other for other in names if other != name]
        if trials.passes(_members(groups, rest)):
            return _leave_out(trials, groups, rest)
    return names
