"""Guidelines as passages: no word is lost, none is too long, and each has the page on which it begins."""

import importlib.util
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import SAMPLES, SHARED_DATA
from workers.analytics.passages import CHARS, OVERLAP, OVERLAP_CHARS, WORDS, clean_text, split_passages
from workers.analytics.pdf import decode_guidelines, read_pages
from workers.runtime.handler.errors import Permanent

BOOK = SHARED_DATA / "prompting-book-en.pdf"

MAX_CHARS = CHARS + OVERLAP_CHARS

SENTENCE = st.integers(1, 60).map(lambda count: " ".join(f"w{n}" for n in range(count)) + ".")
PAGE = st.lists(SENTENCE, max_size=12).flatmap(
    lambda sentences: st.sampled_from([" ", "\n", "\n\n"]).map(lambda gap: gap.join(sentences))
)


def script(name: str) -> ModuleType:
    """Return a script of the samples folder as a module."""
    spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=60)
@given(st.lists(PAGE, max_size=6))
def test_every_word_is_in_a_passage_in_order_and_on_its_page(pages: list[str]) -> None:
    """Without the repeated words, the passages are the document. Their pages never decrease."""
    made = split_passages(pages)

    own = []
    before: list[str] = []
    for one in made:
        words = one.content.split()
        assert words[: len(before)] == before
        mine = words[len(before) :]
        assert 0 < len(mine) <= WORDS
        own += mine
        before = mine[-OVERLAP:]
    assert own == " ".join(pages).split()
    assert [one.number for one in made] == list(range(1, len(made) + 1))
    assert all(one.page <= other.page for one, other in pairwise(made))
    assert all(pages[one.page - 1].strip() for one in made)


def test_paragraphs_stay_whole_and_pages_are_kept() -> None:
    """A paragraph that does not fit begins the next passage. So does a page after a half full passage."""
    pages = [" ".join(["one"] * 120) + "\n\n" + " ".join(["two"] * 120), "", " ".join(["three"] * 30)]

    made = split_passages(pages)

    assert [(one.page, one.content.split()[-1], len(one.content.split())) for one in made] == [
        (1, "one", 120),
        (1, "two", OVERLAP + 120),
        (3, "three", OVERLAP + 30),
    ]


def test_very_long_word_does_not_make_a_very_long_passage() -> None:
    """An encoded picture in the text is cut into words."""
    made = split_passages(["A" * 1_000_000])

    assert max(len(one.content) for one in made) <= MAX_CHARS


LINES = [f"任务{n}必须写明目标读者和用途，不得使用空泛的词语。反馈{n}要指出具体的步骤！" for n in range(600)]


@pytest.mark.parametrize("page", ["\n".join(LINES), "".join(LINES), "".join(f"ต้องระบุผู้อ่าน{n}" for n in range(2_000))])
def test_script_without_blanks_makes_passages_of_the_usual_size(page: str) -> None:
    """Characters are counted instead of words, and nothing is lost."""
    made = split_passages([page])

    assert max(len(one.content) for one in made) <= MAX_CHARS
    assert min(len(one.content) for one in made[:-1]) >= CHARS // 2
    own = [made[0].content.split()]
    for before, one in pairwise(made):
        words = one.content.split()
        repeated = next(n for n in range(OVERLAP, -1, -1) if words[:n] == before.content.split()[-n:] or not n)
        own.append(words[repeated:])
    assert "".join("".join(words) for words in own) == "".join(page.split())


def test_broken_words_are_joined_and_ligatures_and_control_characters_replaced() -> None:
    """Words cut at line ends are joined. NUL and half surrogates are removed."""
    assert (
        clean_text("mod\u2010\r\nels are e\ufb03cient\x00, soft\ufffe\r\nened \ud800")
        == "models are efficient, softened "
    )


def test_sample_guidelines_have_a_text_layer_and_are_what_their_script_makes() -> None:
    """Three pages with all sections. The committed PDF is the output of the script, byte for byte."""
    pdf = (SAMPLES / "guidelines.pdf").read_bytes()

    pages = read_pages(pdf)

    assert pdf == script("make_guidelines").made()
    assert [page.count("\n") > 20 for page in pages] == [True] * 3
    assert [number for number, page in enumerate(pages, 1) for n in range(1, 9) if f"{n}. " in page] != []
    assert "What a good task has" in pages[0]
    assert "How records are checked" in pages[2]


@pytest.mark.parametrize(
    ("pdf", "complaint"),
    [
        (b"", "guidelines are an empty file"),
        (b"PK\x03\x04 a zip", "guidelines are not a PDF: they do not begin with %PDF-"),
        (b"%PDF-1.7\nnothing of it", "guidelines are damaged: "),
    ],
)
def test_unreadable_pdf_is_refused_in_one_line(pdf: bytes, complaint: str) -> None:
    """Each fault has its own message. No further attempt follows."""
    with pytest.raises(Permanent, match=complaint) as refusal:
        read_pages(pdf)
    assert "\n" not in str(refusal.value)


def test_encrypted_pdf_is_refused_as_such() -> None:
    """The message says that it needs a PDF without a password."""
    pdf = script("make_guidelines").pdf([[]], title="locked")
    lock = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >> /ID [<00> <00>]" % (
        b"ab" * 32,
        b"cd" * 32,
    )

    with pytest.raises(Permanent, match="guidelines are encrypted: a PDF without a password is needed"):
        read_pages(pdf.replace(b"/Root 1 0 R", b"/Root 1 0 R " + lock))


@pytest.mark.parametrize(
    ("encoded", "complaint"), [(None, "has no guidelines"), ("  ", "has no"), ("%%%", "not base64")]
)
def test_project_without_guidelines_is_told_how_to_set_them(encoded: str | None, complaint: str) -> None:
    """No value, blanks, and text that is not base64."""
    with pytest.raises(Permanent, match=complaint):
        decode_guidelines(encoded, project="p")


@pytest.mark.parametrize("encoded", ["JVBERi0=", "JVBE\nRi0=\n", "data:application/pdf;base64,JVBERi0="])
def test_base64_is_read_however_it_was_written(encoded: str) -> None:
    """Also with line ends, and as a data URL."""
    assert decode_guidelines(encoded, project="p") == b"%PDF-"


@pytest.mark.skipif(not BOOK.exists(), reason="../shared/data/prompting-book-en.pdf is not here")
def test_book_of_418_pages_is_read_to_its_end() -> None:
    """About 60,000 words, separated at line ends, in passages of the configured size."""
    pages = read_pages(BOOK.read_bytes())
    made = split_passages(pages)

    assert len(pages) == 418
    assert 300 < len(made) < 600
    assert made[-1].page > 400
    assert "AI language models actually work" in " ".join(one.content for one in made)
