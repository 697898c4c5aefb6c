"""The one image loader: every form it takes, what it writes anew, and what it refuses."""

import io
from pathlib import Path

import numpy as np
import pytest
import training_sets as sets
from PIL import Image as Pillow
from PIL import features

from data_prep.images import encoded, inside_root, load_image, opened
from data_prep.record import Unusable


def refused(source: object, **options: object) -> str:
    with pytest.raises(Unusable) as caught:
        load_image(source, **options)  # type: ignore[arg-type]
    return caught.value.reason


def test_bytes_dict_path_and_pil_agree(tmp_path: Path) -> None:
    data = sets.encode(sets.picture(40, 30, (5, 6, 20, 25)), "PNG")
    sets.put(tmp_path / "a" / "b.png", data)
    forms = [data, memoryview(data), {"bytes": data, "path": None}, {"bytes": None, "path": "a/b.png"}, "a/b.png", Path("a/b.png"),
             Pillow.open(io.BytesIO(data))]  # fmt: skip
    loaded = [load_image(form, root=tmp_path) for form in forms]
    assert {image.wh for image, _ in loaded} == {(40, 30)}
    assert len({opened(image).tobytes() for image, _ in loaded}) == 1
    assert [notes for _, notes in loaded] == [()] * 6 + [("image_reencoded",)]
    # a plain file stays a path: a million records cost no image memory
    assert loaded[4][0].data is None
    assert encoded(loaded[4][0]) == data


def test_exif_orientation_is_not_applied_and_its_tag_goes() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    data = sets.encode(sets.picture(40, 30, (0, 0, 10, 10)), exif=exif)
    image, notes = load_image(data)
    assert (image.wh, notes) == ((40, 30), ("exif_removed",))
    again = Pillow.open(io.BytesIO(encoded(image)))
    assert again.getexif().get(0x0112) is None
    assert again.tobytes() == Pillow.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_other_modes_become_rgb(mode: str) -> None:
    picture = (
        Pillow.new("L", (8, 6), 255).convert("I;16" if mode == "I;16" else mode)
        if mode not in ("I;16",)
        else Pillow.new("I;16", (8, 6), 65535)
    )
    form = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG")
    image, notes = load_image(sets.encode(picture, form))
    assert notes == ("image_reencoded",)
    assert Pillow.open(io.BytesIO(encoded(image))).mode == "RGB"
    assert opened(image).getpixel((2, 2)) == (255, 255, 255)


def test_transparency_is_laid_on_white() -> None:
    image, _ = load_image(sets.encode(Pillow.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"))
    assert opened(image).getpixel((1, 1)) == (255, 255, 255)


def test_what_is_refused(tmp_path: Path) -> None:
    jpeg = sets.jpeg(300, 200, (10, 10, 100, 100))
    assert refused(jpeg[: len(jpeg) // 2]) == "image_truncated"
    png = sets.encode(Pillow.effect_noise((200, 200), 90), "PNG")
    assert refused(png[: len(png) // 2]) == "image_truncated"
    assert refused(b"") == "image_missing"
    assert refused(b"<svg/>") == "image_unreadable"
    assert refused(None) == "image_missing"
    assert refused({"bytes": None, "path": None}) == "image_missing"
    assert refused(jpeg, max_image_pixels=59_999) == "image_bomb"
    assert refused(sets.encode(Pillow.new("1", (30000, 30000)), "PNG")) == "image_bomb"  # above Pillow's own error level
    assert refused(sets.jpeg(2010, 10)) == "image_aspect_ratio"
    assert refused("a.jpg") == "image_missing"  # no root
    assert refused("a.jpg", root=tmp_path) == "image_missing"
    assert refused("a\0.jpg", root=tmp_path) == "image_missing"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_what_a_decoder_raises_in_its_own_way_is_refused_too() -> None:
    stream = io.BytesIO()
    Pillow.new("RGB", (8, 8)).save(stream, format="AVIF")
    broken = stream.getvalue().replace(b"pitm", b"pitx")  # Pillow raises RuntimeError: no primary item
    assert refused(broken) == "image_unreadable"


def test_a_name_that_no_file_system_takes_is_no_image(tmp_path: Path) -> None:
    assert refused("x" * 5000, root=tmp_path) == "image_missing"


def test_paths_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sets.put(root / "in.jpg", sets.jpeg(8, 8))
    outside = sets.put(tmp_path / "out.jpg", sets.jpeg(8, 8))
    (root / "link.jpg").symlink_to(outside)
    for name in ("../out.jpg", str(outside), "link.jpg", "x/../../out.jpg"):
        assert refused(name, root=root) == "image_outside_root"
    assert inside_root("x/../in.jpg", root) == (root / "in.jpg").resolve()
    # a root that is itself a link is what the user said
    (tmp_path / "linked").symlink_to(root)
    assert load_image("in.jpg", root=tmp_path / "linked")[0].wh == (8, 8)


def test_a_truncated_image_passes_only_where_nobody_looks() -> None:
    jpeg = sets.jpeg(300, 200, (10, 10, 100, 100))
    assert load_image(jpeg[: len(jpeg) // 2], verify=False)[0].wh == (300, 200)


def test_links_of_the_hubs_cache_stay_inside_their_repository(tmp_path: Path) -> None:
    """snapshots/COMMIT/images/1.jpg -> ../../../blobs/HASH, as huggingface_hub lays its cache out."""
    repository = tmp_path / "datasets--MMVP--MMVP"
    sets.put(repository / "blobs" / "0a1b", sets.jpeg(8, 6))
    secret = sets.put(tmp_path / "secret.jpg", sets.jpeg(8, 8))
    root = repository / "snapshots" / "c0ffee" / "MMVP Images"
    root.mkdir(parents=True)
    (root / "1.jpg").symlink_to("../../../blobs/0a1b")
    (root / "2.jpg").symlink_to(secret)
    assert load_image("1.jpg", root=root)[0].wh == (8, 6)
    assert refused("2.jpg", root=root) == "image_outside_root"
    assert refused("../../../blobs/0a1b", root=root) == "image_outside_root"  # a row may not name a blob itself


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["baseline", "progressive", "full colour"])
def test_the_quick_look_at_a_jpeg_finds_what_a_full_one_finds(options: dict, tmp_path: Path) -> None:
    """Decoding at an eighth of the size reads every coefficient: it stops where full decoding stops, cut wherever it may be."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    data = sets.encode(Pillow.fromarray(pixels), "JPEG", **options)

    def full(cut: bytes) -> str:
        try:
            with Pillow.open(io.BytesIO(cut)) as picture:
                picture.load()
        except OSError as error:
            return "image_truncated" if "truncated" in str(error) else "image_unreadable"
        return ""

    def quick(cut: bytes) -> str:
        try:
            load_image(cut)
        except Unusable as error:
            return error.reason
        return ""

    cuts = [data[:length] for length in range(200, len(data), 97)] + [data[:-1], data]
    assert [quick(cut) for cut in cuts] == [full(cut) for cut in cuts]
    assert quick(data) == "" != quick(data[: len(data) // 2])


def test_links_below_the_root_are_followed_file_by_file(tmp_path: Path) -> None:
    """Folders are looked at once; a file's own link is looked at every time."""
    root = tmp_path / "root"
    sets.put(root / "a" / "1.jpg", sets.jpeg(30, 30))
    sets.put(tmp_path / "outside" / "2.jpg", sets.jpeg(30, 30))
    (root / "b").symlink_to(root / "a")
    (root / "away").symlink_to(tmp_path / "outside")
    (root / "a" / "2.jpg").symlink_to(tmp_path / "outside" / "2.jpg")
    (root / "a" / "3.jpg").symlink_to("1.jpg")
    for name in ("a/1.jpg", "b/1.jpg", "a/3.jpg", "a/../b/./1.jpg"):
        assert inside_root(name, root) == root / "a" / "1.jpg"
    for name in ("away/2.jpg", "a/2.jpg", "b/2.jpg", "../outside/2.jpg", "a/../../root2"):
        with pytest.raises(Unusable, match="image_outside_root"):
            inside_root(name, root)
