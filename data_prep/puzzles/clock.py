"""Clocks: what time does an analogue clock show, or what was or will it be some time before or after?

Level 1: quarters of an hour, the time shown. Level 2: five minutes, whole hours away. Level 3: every minute, hours and minutes away.
"""

from __future__ import annotations

import math
from random import Random

from PIL import Image

from data_prep.puzzles.drawing import INK, PAPERS, RED, Canvas
from data_prep.puzzles.puzzle import Kind, Puzzle

_MINUTE_STEPS = {1: 15, 2: 5, 3: 1}
_HALF_DAY = 12 * 60  # minutes


def written(minutes: int) -> str:
    """Minutes after twelve as a clock face says them: `12:00`, `3:05`."""
    hour, minute = divmod(minutes % _HALF_DAY, 60)
    return f"{hour or 12}:{minute:02d}"


def draw(rng: Random, level: int) -> Puzzle:
    shown = rng.randrange(0, _HALF_DAY, _MINUTE_STEPS[level])
    hours, minutes = (0, 0) if level == 1 else (rng.randint(1, 5), 0 if level == 2 else rng.randrange(5, 60, 5))
    sign = rng.choice((-1, 1))
    away = sign * (60 * hours + minutes)
    answer = shown + away
    return Puzzle(
        kind="clock",
        content={"hour": shown // 60, "minute": shown % 60},
        style={"paper": rng.randrange(len(PAPERS)), "numerals": rng.choice(("all", "quarters")), "red_hand": rng.random() < 0.3},
        question=_question(hours, minutes, sign),
        answer=written(answer),
        wrong=_mistakes(rng, shown, away),
        description=_description(shown),
    )


def _question(hours: int, minutes: int, sign: int) -> str:
    if not hours:
        return "What time does the clock show?"
    parts = [_counted(hours, "hour")] + ([_counted(minutes, "minute")] if minutes else [])
    tense, place = ("was", "before") if sign < 0 else ("will", "after")
    verb = "was it" if tense == "was" else "will it be"
    return f"What time {verb} {' and '.join(parts)} {place} the time on the clock?"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _mistakes(rng: Random, shown: int, away: int) -> tuple[str, ...]:
    """Hands exchanged, an hour or a few minutes off, the wrong direction."""
    hour, minute = divmod(shown, 60)
    exchanged = (minute // 5) * 60 + (hour * 5) % 60
    candidates = [exchanged + away, shown - away, *(shown + away + step for step in (-60, 60, -5, 5))]
    rng.shuffle(candidates)
    candidates += [shown + away + step for step in (-15, 15, 30)]
    right = written(shown + away)
    return tuple(dict.fromkeys(text for text in map(written, candidates) if text != right))


def _description(shown: int) -> str:
    """The hands and no time: the time shown is the answer of level 1, and reading it off the hands is part of the puzzle."""
    hour_degrees, minute_degrees = shown % _HALF_DAY / 2, 6 * (shown % 60)
    return (
        "An analogue clock with twelve hours. Degrees are counted clockwise from 12. The short hour hand points to "
        f"{hour_degrees:g} degrees, the long minute hand to {minute_degrees} degrees."
    )


def render(puzzle: Puzzle, side: int) -> Image.Image:
    """A face with ticks, numerals and two hands."""
    canvas = Canvas(side, PAPERS[puzzle.style["paper"]])
    middle, radius = side / 2, side * 0.46
    canvas.disc((middle, middle), radius, (255, 255, 255), INK, side * 0.018)

    def at(degrees: float, share: float) -> tuple[float, float]:
        angle = math.radians(degrees)
        return middle + math.sin(angle) * radius * share, middle - math.cos(angle) * radius * share

    for minute in range(60):
        if minute % 5 == 0:
            canvas.line([at(6 * minute, 0.86), at(6 * minute, 0.94)], INK, side * 0.014)
        elif side >= 160:
            canvas.line([at(6 * minute, 0.91), at(6 * minute, 0.94)], INK, side * 0.005)
    for hour in range(1, 13):
        if puzzle.style["numerals"] == "all" or hour % 3 == 0:
            canvas.text(at(30 * hour, 0.74), str(hour), side * 0.085)
    hour, minute = puzzle.content["hour"], puzzle.content["minute"]
    canvas.line([at(30 * hour + minute / 2 + 180, 0.08), at(30 * hour + minute / 2, 0.36)], INK, side * 0.034)
    canvas.line([at(6 * minute + 180, 0.1), at(6 * minute, 0.6)], RED if puzzle.style["red_hand"] else INK, side * 0.016)
    canvas.disc((middle, middle), side * 0.026, INK)
    return canvas.picture()


KIND = Kind(draw, render)
