"""A tree as one HTML file that needs nothing else: the image with its boxes, the tree with visits and values, the chains."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.images import encoded
from data_prep.manifest import write_text
from data_prep.mcts.chains import BACKTRACK, CORRECTED, ChainSettings, linearise, write_step
from data_prep.mcts.tree import ROOT, Tree
from data_prep.prompts import letter
from data_prep.record import Record

_MEDIA = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


def write_page(path: Path, tree: Tree, record: Record, settings: ChainSettings) -> None:
    """Write the page; nothing of the question, the teacher or the data set reaches it unescaped."""
    environment = Environment(
        loader=PackageLoader("data_prep.mcts"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("tree.html.j2").render(
        record=record,
        options=[(letter(index), text, index == record.gold_index) for index, text in enumerate(record.options)],
        images=[_data_url(encoded(image)) for image in record.images],
        size=record.images[0].wh,
        tree=tree,
        root=_node(tree, ROOT, set(_most_visited(tree))),
        boxes=[(index, node.step.box) for index, node in enumerate(tree.nodes) if node.step is not None and node.step.box is not None],
        chains=[_chain(chain) for chain in linearise(tree, settings)],
        backtrack=BACKTRACK,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _node(tree: Tree, index: int, best: set[int]) -> dict[str, Any]:
    node = tree.nodes[index]
    return {
        "index": index,
        "text": "The question" if node.step is None else node.step.text,
        "answer": None if node.step is None else node.step.answer,
        "box": node.step is not None and node.step.box is not None,
        "value": node.value,
        "visits": node.visits,
        "prior": node.prior,
        "reward": node.reward,
        "best": index in best,
        "rollouts": [
            {"text": " ".join(write_step(step) for step in one.steps) or "no usable answer", "reward": one.reward} for one in node.rollouts
        ],
        "children": [_node(tree, child, best) for child in node.children],
    }


def _most_visited(tree: Tree) -> list[int]:
    index, found = ROOT, []
    while tree.nodes[index].children:
        index = max(tree.nodes[index].children, key=lambda child: (tree.nodes[child].visits, tree.nodes[child].value, -child))
        found.append(index)
    return found


def _chain(chain: Any) -> dict[str, Any]:
    start, end = chain.wrong
    steps = [(write_step(step), chain.kind == CORRECTED and start <= number < end) for number, step in enumerate(chain.steps)]
    return {"kind": chain.kind, "steps": steps, "end": end, "answer": chain.steps[-1].answer, "words": chain.words()}


def _data_url(data: bytes) -> str:
    media = next((media for magic, media in _MEDIA if data.startswith(magic)), "image/png")
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
