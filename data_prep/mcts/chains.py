"""From a finished tree to chains of thought that a model learns: direct ones, and ones that take a wrong turn and come back.

A path is complete when its last step answers; its steps are nodes, or nodes and the rollout that was written on from the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from data_prep.mcts.step import Step
from data_prep.mcts.tree import ROOT, Tree
from data_prep.record import BoxTuple, Record
from faithful_rl.config import ConfigError

# One sentence, without a visual word: a grounding judge has nothing to check in it.
BACKTRACK = "Hold on, that last step was wrong, so I go back and try again."

DIRECT, CORRECTED = "direct", "corrected"
_UNKNOWN_VALUE = 0.5  # of a step that stands in a rollout only


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """How many chains a question gives (about 8 + 2 of the shortest in the paper) and how long a wrong turn may be.

    Raises:
        ConfigError: a value out of its range.
    """

    direct: int = 8  # >= 0
    corrected: int = 2  # >= 0
    wrong_steps: int = 3  # steps of a wrong turn, >= 1

    def __post_init__(self) -> None:
        for name, low in (("direct", 0), ("corrected", 0), ("wrong_steps", 1)):
            if getattr(self, name) < low:
                raise ConfigError(name, getattr(self, name), f"a whole number >= {low}", f"Change {name}.")


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps in order; `wrong` is the half-open range of the steps of the wrong turn, empty for a direct chain."""

    kind: str
    steps: tuple[Step, ...]
    wrong: tuple[int, int] = (0, 0)

    def text(self) -> str:
        """`<think>...</think><answer>...</answer>`, boxes in pixels of the original image."""
        sentences = []
        for number, step in enumerate(self.steps):
            if self.kind == CORRECTED and number == self.wrong[1]:
                sentences.append(BACKTRACK)
            sentences.append(write_step(step))
        return f"<think>{' '.join(sentences)}</think><answer>{self.steps[-1].answer}</answer>"

    def words(self) -> int:
        return len(self.text().split())


@dataclass(frozen=True, slots=True)
class Path:
    """A complete chain of the tree; `nodes` are the indices of the steps that are nodes (the first of them)."""

    steps: tuple[Step, ...]
    nodes: tuple[int, ...]
    reward: float


def write_step(step: Step) -> str:
    """The sentence with its box in front of the full stop: `The cup is on the left <bbox>[10,20,30,40]</bbox>.`"""
    if step.box is None:
        return step.text
    cited = f"<bbox>[{','.join(_number(value) for value in step.box)}]</bbox>"
    text, end = (step.text[:-1].rstrip(), step.text[-1]) if step.text[-1] in ".!?" else (step.text, ".")
    return f"{text} {cited}{end}"


def paths(tree: Tree) -> list[Path]:
    """Every complete chain of the tree, each once, in the order in which the tree grew."""
    found: dict[tuple[Step, ...], Path] = {}
    for path in _all_paths(tree):
        found.setdefault(path.steps, path)
    return list(found.values())


def _all_paths(tree: Tree) -> Iterator[Path]:
    for index in range(ROOT + 1, len(tree.nodes)):
        node = tree.nodes[index]
        nodes = _ancestry(tree, index)
        steps = tree.steps_to(index)
        if node.step is not None and node.step.answer is not None and node.reward is not None:
            yield Path(steps, nodes, node.reward)
        for rollout in node.rollouts:
            if rollout.steps and rollout.steps[-1].answer is not None:
                yield Path((*steps, *rollout.steps), nodes, rollout.reward)


def _ancestry(tree: Tree, index: int) -> tuple[int, ...]:
    found = []
    while index > ROOT:
        found.append(index)
        index = tree.nodes[index].parent
    return tuple(reversed(found))


def linearise(tree: Tree, settings: ChainSettings) -> list[Chain]:
    """Direct chains, the shortest first and of equal ones the more trusted, then corrected ones.

    Equal trees give equal chains; a tree without a right answer gives none.
    """
    complete = paths(tree)
    right = [path for path in complete if path.reward >= 1.0]
    ordered = sorted(right, key=lambda path: (_length(Chain(DIRECT, path.steps))[0], -_lowest(tree, path), path.steps[-1].text))
    direct = [Chain(DIRECT, path.steps) for path in ordered[: settings.direct]]
    corrected = _corrected(tree, right, [path for path in complete if path.reward <= 0.0], settings)
    return [*direct, *corrected]


def _corrected(tree: Tree, right: Sequence[Path], wrong: Sequence[Path], settings: ChainSettings) -> list[Chain]:
    """The shortest, of equal ones that with the turn that the tree is surest is wrong; each wrong turn is used once.

    A turn from which the right answer was reached more often than not comes after all others: it may not be what was wrong."""
    candidates = []
    for good in right:
        for bad in wrong:
            shared = _shared(good.steps, bad.steps)
            turn = [replace(step, answer=None) for step in (bad.steps[shared:-1] or bad.steps[shared:])][: settings.wrong_steps]
            if not turn or shared >= len(good.steps):
                continue
            value = tree.nodes[bad.nodes[shared]].value if shared < len(bad.nodes) else _UNKNOWN_VALUE
            chain = Chain(CORRECTED, (*good.steps[:shared], *turn, *good.steps[shared:]), (shared, shared + len(turn)))
            words, text = _length(chain)
            candidates.append(((value > _UNKNOWN_VALUE, words, value, text), tuple(turn), chain))
    candidates.sort(key=lambda candidate: candidate[0])
    used: set[tuple[Step, ...]] = set()
    chains: list[Chain] = []
    for _, turn_steps, chain in candidates:
        if len(chains) < settings.corrected and turn_steps not in used:
            used.add(turn_steps)
            chains.append(chain)
    return chains


def _lowest(tree: Tree, path: Path) -> float:
    """The value of the least trusted step of a path: a step that the right answer was reached in spite of has a low one."""
    return min((tree.nodes[index].value for index in path.nodes), default=0.0)


def _shared(one: Sequence[Step], other: Sequence[Step]) -> int:
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count


def _length(chain: Chain) -> tuple[int, str]:
    return chain.words(), chain.text()


def with_chains(record: Record, tree: Tree, settings: ChainSettings) -> list[Record]:
    """One record for every chain: the question with the chain as its response, ready for `data_prep.writers`."""
    return [
        replace(
            record,
            uid=f"{record.uid}-{chain.kind}{number}",
            response=chain.text(),
            metadata={**record.metadata, "question_uid": record.uid, "chain": chain.kind, "steps": len(chain.steps)},
        )
        for number, chain in enumerate(linearise(tree, settings))
    ]


def clipped(box: Sequence[float], wh: tuple[int, int]) -> BoxTuple | None:
    """A box inside an image of (width, height), corners in order; None where nothing of it is left."""
    width, height = wh
    x1, x2 = sorted((min(max(box[0], 0.0), float(width)), min(max(box[2], 0.0), float(width))))
    y1, y2 = sorted((min(max(box[1], 0.0), float(height)), min(max(box[3], 0.0), float(height))))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
