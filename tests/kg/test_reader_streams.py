"""Reading files: what was packed comes out whole, damage is named, line numbers are those of an editor."""

from __future__ import annotations

import bz2
import gzip
import io

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kg.errors import InputError
from kg.readers.lines import blocks, decoded, numbered_lines, open_stream, size_of


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def zst_stream(content: bytes) -> bytes:
    """As the command line tool packs standard input: no content size in the frame."""
    packed = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
        writer.write(content)
    return packed.getvalue()


SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
PACK = {
    "plain": lambda content: content,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zst,
    "zst_stream": zst_stream,
    "zst_skippable": lambda content: SKIPPABLE + zst(content),
}
texts = st.lists(st.sampled_from(["", "a", "bc\td", "é", "long" * 20, "\r"]), max_size=12).map("\n".join)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("streams") / "file"


@settings(deadline=None)
@given(texts, st.booleans(), st.booleans(), st.sampled_from(sorted(PACK)), st.integers(1, 40), st.data())
def test_blocks_are_the_file_cut_at_line_ends(file, text, ended, mark, packing, size, data):
    """A line cut in two would be two wrong facts; a number one off sends the user to the wrong line."""
    content = text.encode() + (b"\n" if ended and text else b"")
    file.write_bytes(PACK[packing]((b"\xef\xbb\xbf" if mark else b"") + content))
    found = list(blocks(file, size))
    assert b"".join(block for block, _ in found) == content
    assert all(block.endswith(b"\n") for block, _ in found[:-1])
    assert [number for _, number in found] == [
        1 + b"".join(block for block, _ in found[:i]).count(b"\n") for i in range(len(found))
    ]
    done = data.draw(st.integers(0, len(found)))
    skip = sum(len(block) for block, _ in found[:done])
    rest = list(blocks(file, size, skip=skip))
    assert b"".join(block for block, _ in rest) == content[skip:]
    assert [number for _, number in rest[:1]] == [number for _, number in found[done : done + 1]]


@pytest.mark.parametrize("packing", sorted(PACK))
def test_lines_are_the_same_however_they_are_packed(file, packing):
    """And archives of several members are read to the end of the last: half a dump looks like a whole one."""
    file.write_bytes(PACK[packing](b"\xef\xbb\xbfone\r\ntwo\n") + PACK[packing](b"three"))
    assert list(numbered_lines(file)) == [(1, "one"), (2, "two"), (3, "three")]
    assert size_of(file) == (17 if packing == "plain" else 0)


@pytest.mark.faults
@pytest.mark.parametrize("packing", sorted(set(PACK) - {"plain"}))
def test_a_truncated_archive_is_named_wherever_it_was_cut(file, packing):
    """zstandard's own stream ends in silence, and gzip's only complains at the very end."""
    content = bytes(range(256)) * 3000
    packed = PACK[packing](content)
    for kept in {len(packed) - 1, len(packed) - 5, len(packed) // 2, len(SKIPPABLE) + 6}:
        file.write_bytes(packed[:kept])
        with pytest.raises(InputError, match="cut off"), open_stream(file) as stream:
            stream.read()


@pytest.mark.faults
@pytest.mark.parametrize("packing", ["gz", "bz2", "zst"])
def test_a_damaged_archive_is_named(file, packing):
    """A flipped bit, or something else behind the archive's end."""
    packed = bytearray(PACK[packing](b"abcdefgh" * 5000))
    packed[len(packed) // 2] ^= 0xFF
    file.write_bytes(bytes(packed))
    with pytest.raises(InputError, match=r"damaged|cut off"), open_stream(file) as stream:
        stream.read()
    file.write_bytes(PACK[packing](b"abc\n") + b"and more text, not packed")
    if packing == "bz2":  # what follows is passed over, as by the tool itself
        assert list(numbered_lines(file)) == [(1, "abc")]
    else:
        with pytest.raises(InputError, match="damaged"):
            list(numbered_lines(file))


@pytest.mark.faults
def test_what_is_no_file_is_refused(tmp_path):
    """An empty archive is a failed download, an empty text is just empty."""
    with pytest.raises(InputError, match="expected a file, found nothing"):
        open_stream(tmp_path / "none")
    with pytest.raises(InputError, match="expected a file, found a folder"):
        list(blocks(tmp_path))
    (tmp_path / "a.gz").touch()
    with pytest.raises(InputError, match="cut off"):
        list(blocks(tmp_path / "a.gz"))
    (tmp_path / "a.txt").touch()
    assert list(blocks(tmp_path / "a.txt")) == list(numbered_lines(tmp_path / "a.txt")) == []


@pytest.mark.faults
def test_a_wrong_byte_is_named_by_line_and_column(tmp_path):
    with pytest.raises(InputError, match=r"x:9: expected UTF-8, got byte 0xfc at column 2"):
        decoded(tmp_path / "x", "é\nok\n".encode() + b"M\xfc\n", 7)
