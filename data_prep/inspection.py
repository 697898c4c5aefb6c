"""`python -m data_prep inspect FILE`: rows as a table in the terminal, and images with their boxes on one page or picture.

The page is one HTML file: images are inside it, every text is escaped, and it loads nothing.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from data_prep import manifest
from data_prep.frames import Frame
from data_prep.images import load_image, opened
from data_prep.prompts import LETTERS, letter
from data_prep.record import Unusable
from data_prep.writers.parquet import read_rows
from faithful_rl.config import ConfigError
from faithful_rl.provenance import read_manifest
from faithful_rl.response import box_spans, parse_box
from faithful_rl.types import Box

LONGEST_SIDE = 720  # pixels of an image on the page
COLOURS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#008080", "#9a6324", "#000075")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A box in original pixels: reference boxes are solid, boxes cited in a response dashed."""

    box: Box
    label: str
    cited: bool = False


@dataclass(slots=True)
class Sheet:
    """One row, ready to show."""

    number: int
    uid: str
    dataset: str
    task_type: str
    question: str
    options: list[str]
    gold: str
    response: str
    details: str
    pictures: list[Pillow.Image] = field(default_factory=list)
    boxes: list[list[Drawn]] = field(default_factory=list)
    problem: str = ""


def inspect(path: Path, *, rows: int = 12, out: Path | None = None, seed: int | None = None, console: Console | None = None) -> Path | None:
    """Print `rows` rows of an RL, SFT or LLaMA-Factory file (the first ones, or a random draw by `seed`) and draw them to `out`; of a
    `rejects.jsonl` the reasons and the source rows as they were.

    Args:
        out: an `.html` or `.png` file; None: only the table.

    Returns:
        `out`.

    Raises:
        ConfigError: no such file, not one of these formats, or another suffix of `out`.
    """
    if out is not None and out.suffix not in (".html", ".png"):
        raise ConfigError("out", str(out), "a file ending in .html or .png", "Correct out=.")
    shown = [_sheet(number, row, path) for number, row in _drawn(path, rows, seed)]
    if not shown:
        fix = "No row was rejected." if path.suffix == ".jsonl" else "Make the file again."
        raise ConfigError("inspect", f"{path} without rows", "at least one row", fix)
    _print(shown, path, console or Console())
    if out is None:
        return None
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        contact_sheet(shown).save(out)
    else:
        manifest.write_text(out, page(shown, path.name))
    return out


def _drawn(path: Path, rows: int, seed: int | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.is_dir():
        path = _data_file(path)
    if not path.is_file():
        raise ConfigError("inspect", f"{path}, which does not exist", "a data file", "Correct the path.")
    try:
        if path.suffix == ".parquet":
            total, stream = pq.ParquetFile(path).metadata.num_rows, read_rows(path)
        else:
            text = path.read_text(encoding="utf-8")
            listed = [json.loads(line) for line in text.split("\n") if line] if path.suffix == ".jsonl" else json.loads(text)
            if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
                raise ConfigError("inspect", f"{path}, which is no list of rows", "a parquet file or a JSON list", "Inspect another file.")
            total, stream = len(listed), iter(listed)
        wanted = set(range(min(rows, total)) if seed is None else Random(seed).sample(range(total), min(rows, total)))
        for number, row in enumerate(stream):
            if number in wanted:
                yield number, row
            if number >= max(wanted, default=0):
                return
    except (pa.ArrowInvalid, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("inspect", f"{path}, which is not readable ({error})", "a parquet or JSON file", "Make it again.") from error


def _data_file(directory: Path) -> Path:
    """The file of a data set's directory: train.parquet where it is, else the first parquet file, else the one that dataset_info.json
    describes."""
    found = sorted(directory.glob("*.parquet"), key=lambda file: (file.name != "train.parquet", file.name))
    info = directory / "dataset_info.json"
    if not found and info.is_file():
        found = [directory / f"{name}.json" for name in json.loads(info.read_text(encoding="utf-8"))]
    if not found:
        raise ConfigError("inspect", f"{directory} without a data file", "a parquet or JSON file", "Name the file.")
    return found[0]


def _sheet(number: int, row: Mapping[str, Any], path: Path) -> Sheet:
    if "extra_info" in row:
        sheet, cells = _rl_sheet(number, row)
    elif "messages" in row:
        sheet, cells = _sft_sheet(number, row)
    elif "conversations" in row:
        sheet, cells = _llama_factory_sheet(number, row)
    elif "source_row" in row:
        return _reject_sheet(row)
    else:
        expected = "an RL, SFT or LLaMA-Factory file, or rejects.jsonl"
        raise ConfigError("inspect", f"columns {', '.join(row)}", expected, "Inspect another file.")
    folder = path if path.is_dir() else path.parent
    try:
        sheet.pictures = [opened(load_image(cell, root=folder)[0]) for cell in cells]
    except Unusable as error:
        sheet.problem = str(error)
    while len(sheet.boxes) < len(sheet.pictures):
        sheet.boxes.append([])
    if sheet.response and sheet.pictures and not sheet.problem:
        sheet.boxes[0] += _cited(sheet.response, _frame(folder, cells[0]), sheet.pictures[0].size)
    return sheet


def _rl_sheet(number: int, row: Mapping[str, Any]) -> tuple[Sheet, list[Any]]:
    extra = row["extra_info"]
    options, truth = list(extra["options"] or []), row["reward_model"]["ground_truth"]
    details = {
        "split": extra["split"],
        "pixels": f"{extra['min_pixels']} to {extra['max_pixels']}",
        "source": json.loads(extra["meta_json"] or "{}"),
    }
    sheet = Sheet(number, extra["uid"], extra["dataset"], extra["task_type"], extra["question"], options, truth, "", _json(details))
    sheet.boxes = [[] for _ in row["images"]]
    owners = extra["box_image_idx"] or [0] * len(extra["gt_boxes"])
    for box, label, owner in zip(extra["gt_boxes"], extra["box_labels"], owners, strict=True):
        sheet.boxes[owner].append(Drawn(Box(*box), label))
    return sheet, list(row["images"])


def _sft_sheet(number: int, row: Mapping[str, Any]) -> tuple[Sheet, list[Any]]:
    texts = {message["role"]: message["content"] for message in row["messages"]}
    question = texts.get("user", "").replace("<image>", "")
    details = _json(json.loads(row.get("meta_json") or "{}"))
    truth, answer = row.get("ground_truth", ""), texts.get("assistant", "")
    sheet = Sheet(number, row.get("uid", ""), row.get("dataset", ""), row.get("task_type", ""), question, [], truth, answer, details)
    sheet.boxes = [[Drawn(Box(*box), "") for box in row.get("gt_boxes") or []]]
    return sheet, list(row["images"])


def _llama_factory_sheet(number: int, row: Mapping[str, Any]) -> tuple[Sheet, list[Any]]:
    human, gpt = row["conversations"][0]["value"], row["conversations"][1]["value"]
    return Sheet(number, "", "", "", human.replace("<image>", ""), [], "", gpt, "{}"), list(row["images"])


def _reject_sheet(row: Mapping[str, Any]) -> Sheet:
    """A row that was not used: its number in the source, the reason, and the fields as they were, binary ones by their length."""
    fields, reason = _json(_without_bytes(row["source_row"])), str(row.get("reason", ""))
    sheet = Sheet(int(row.get("row", -1)), str(row.get("uid", "")), "", reason, "", [], "", "", fields)
    sheet.problem = f"{reason}: {row.get('detail')}"
    return sheet


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"} and isinstance(value["base64"], str):
            return f"{len(value['base64']) * 3 // 4 - value['base64'].count('=')} bytes"
        return {key: _without_bytes(item) for key, item in value.items()}
    return [_without_bytes(item) for item in value] if isinstance(value, list) else value


def _frame(folder: Path, cell: Any) -> Frame:
    """The frame that a response is written in: the limits that its image carries, else its manifest's, else the pinned one."""
    made = read_manifest(folder) or {}
    stated = made.get("settings", {}).get("frame")
    frame = Frame(**stated) if stated else Frame()
    if isinstance(cell, Mapping) and cell.get("min_pixels") and cell.get("max_pixels"):
        return replace(frame, chain="verl", min_pixels=int(cell["min_pixels"]), max_pixels=int(cell["max_pixels"]))
    return frame


def _cited(response: str, frame: Frame, image_wh: tuple[int, int]) -> list[Drawn]:
    found = (parse_box(response[start + len("<bbox>") : end - len("</bbox>")]) for start, end in box_spans(response))
    places: dict[Box, list[str]] = {}  # a box that is cited again keeps one outline with all its numbers
    for number, box in enumerate(filter(None, found), start=1):
        places.setdefault(box, []).append(str(number))
    return [Drawn(frame.to_original(box, image_wh), ", ".join(numbers), cited=True) for box, numbers in places.items()]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _print(shown: list[Sheet], path: Path, console: Console) -> None:
    table = Table(title=str(path), title_justify="left", show_lines=True)
    for name in ("row", "uid / type", "question", "answer", "images", "boxes"):
        table.add_column(name, overflow="fold")
    for sheet in shown:
        sizes = ", ".join(f"{picture.width}x{picture.height}" for picture in sheet.pictures) or sheet.problem
        boxes = sum(len(boxes) for boxes in sheet.boxes)
        question = "\n".join(
            [_short(sheet.question or sheet.details, 300), *(f"{letter(i)}) {text}" for i, text in enumerate(sheet.options))]
        )
        cells = (
            str(sheet.number),
            f"{sheet.uid}\n{sheet.task_type}",
            question,
            "\n".join(filter(None, (sheet.gold, _short(sheet.response, 400)))),
            sizes,
            str(boxes),
        )
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    console.print(table)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def page(shown: list[Sheet], title: str) -> str:
    """The sheets as one self-contained HTML page."""
    environment = Environment(loader=PackageLoader("data_prep"), autoescape=True, undefined=StrictUndefined)
    views = [{"sheet": sheet, "pictures": [_view(*pair) for pair in zip(sheet.pictures, sheet.boxes, strict=True)]} for sheet in shown]
    return environment.get_template("inspect.html").render(views=views, title=title, letters=LETTERS)


def _view(picture: Pillow.Image, boxes: list[Drawn]) -> dict[str, Any]:
    small = picture.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=88)
    stroke = max(picture.size) / 250
    return {
        "uri": "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii"),
        "width": picture.width,
        "height": picture.height,
        "stroke": stroke,
        "font": stroke * 7,
        "boxes": [{"drawn": drawn, "colour": COLOURS[number % len(COLOURS)]} for number, drawn in enumerate(boxes)],
    }


def contact_sheet(shown: list[Sheet], columns: int = 3, width: int = 440) -> Pillow.Image:
    """The sheets as one picture: images with boxes, and the question and answer below."""
    tiles = [_tile(sheet, width) for sheet in shown]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    gap = 16
    heights = [max(tile.height for tile in row) for row in rows]
    across = max(len(row) for row in rows)
    sheet = Pillow.new("RGB", (across * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), "#f2f2f2")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (gap + column * (width + gap), top))
        top += height + gap
    return sheet


def _tile(sheet: Sheet, width: int) -> Pillow.Image:
    font = ImageFont.load_default(size=14)
    pictures = [_painted(picture, boxes, width) for picture, boxes in zip(sheet.pictures, sheet.boxes, strict=True)]
    options = [f"{letter(i)}) {text}" for i, text in enumerate(sheet.options)]
    lines = [f"{sheet.number}  {sheet.uid}  {sheet.task_type}"]
    for text in (
        _short(sheet.question or sheet.details, 400),
        *options,
        f"answer: {sheet.gold}" if sheet.gold else "",
        _short(sheet.response, 600),
        sheet.problem,
    ):
        lines += _wrapped(text, font, width - 16)
    height = sum(picture.height + 8 for picture in pictures) + 19 * len(lines) + 16
    tile = Pillow.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        tile.paste(picture, (0, top))
        top += picture.height + 8
    pen = ImageDraw.Draw(tile)
    for number, text in enumerate(lines):
        pen.text((8, top + 4 + 19 * number), text, font=font, fill="#555" if number == 0 else "black")
    return tile


def _painted(picture: Pillow.Image, boxes: list[Drawn], width: int) -> Pillow.Image:
    scale = width / picture.width
    painted = picture.resize((width, max(1, round(picture.height * scale))))
    pen = ImageDraw.Draw(painted)
    font = ImageFont.load_default(size=14)
    for number, drawn in enumerate(boxes):
        colour = COLOURS[number % len(COLOURS)]
        x1, y1, x2, y2 = (value * scale for value in drawn.box.as_list())
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2 if drawn.cited else 3)
        if drawn.label:
            place = (x1 + 3, y1 - 17 if y1 >= 17 else y2 + 3)  # below a box at the upper edge
            area = pen.textbbox(place, drawn.label, font=font)
            pen.rectangle((area[0] - 3, area[1] - 2, area[2] + 3, area[3] + 2), fill=colour)
            pen.text(place, drawn.label, font=font, fill="white")
    return painted


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines
