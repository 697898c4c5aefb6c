"""Words by which the sentence filter recognises a claim that an image can confirm or refute. Lower case, one word each."""

from __future__ import annotations

_COLOURS = """red green blue yellow orange purple violet pink brown black white grey gray silver golden gold beige tan cyan magenta
teal maroon navy turquoise dark light bright pale striped dotted transparent wooden metallic coloured colored color colour"""

_SHAPES = """circle circles square squares triangle triangles rectangle rectangles star stars diamond diamonds hexagon cube cubes sphere
spheres cylinder cylinders round rectangular triangular shape shapes line lines arrow arrows marker markers dot dots cross"""

_SIZES = """big bigger biggest large larger largest small smaller smallest tall taller tallest short shorter shortest tiny huge wide wider
narrow long longer thick thin size sized height width"""

_PLACES = """left right leftmost rightmost above below under underneath beneath over top bottom upper lower middle centre center corner edge
side front behind back background foreground near nearer nearest next beside between inside outside within around adjacent close closer
closest far farther farthest further furthest facing towards toward diagonal diagonally horizontal horizontally vertical vertically row
column north south east west clockwise beyond across along on distance opposite"""

_SEEING = """image images picture pictures photo photograph frame scene view shown shows show showing visible see seen appears appear
appearing depicted depicts displayed displays located positioned placed sits sitting stands standing lies lying hanging holding holds
wearing wears moving moved moves rotated turned pointing points contains touching overlaps overlapping covers covering occluded empty
full object objects item items box boxes region area text label labelled labeled reads written sign camera"""

_THINGS = """person people man men woman women boy girl child children player hand hands head face hair shirt hat dress car cars truck bus
bike bicycle motorcycle train boat plane airplane road street sidewalk building buildings house wall walls floor ceiling roof door doors
window windows table tables desk chair chairs sofa couch bed shelf cabinet counter lamp clock painting mirror plant plants tree trees grass
flower flowers sky cloud water sea river mountain beach snow dog dogs cat cats bird birds horse cow sheep elephant bear animal animals
ball bottle cup glass plate bowl book books bag phone laptop screen monitor keyboard tv television refrigerator oven sink toilet food"""

_COUNTS = """count counts number one two three four five six seven eight nine ten several many few no none another both single pair"""

VISUAL_WORDS = frozenset(" ".join((_COLOURS, _SHAPES, _SIZES, _PLACES, _SEEING, _THINGS, _COUNTS)).split()) - {
    # Too common outside descriptions to show that something visible is meant.
    "one",
    "no",
    "on",
    "see",
    "number",
    "over",
    "next",
    "back",
}

_ASSERTIONS = """is are was were has had isn aren there contains contain shows show appears appear sits stands lies holds wears looks seems
    faces points covers touches overlaps located positioned placed hanging holding wearing standing sitting lying"""

ASSERTIONS = frozenset(_ASSERTIONS.split())
