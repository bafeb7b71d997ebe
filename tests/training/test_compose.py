"""A song on its way: forms are kept exactly, words are judged whole, and what is streamed stays."""

import re
from collections import Counter

import pytest
import torch

from backend.config.schema import ModelConfig
from backend.data.sections import sung_lines
from backend.data.tokenizers import ByteBPE, CharTokenizer
from backend.evaluation.novelty import words
from backend.models.generation import Sampling, generate
from backend.models.gpt import GPT
from backend.training.compose import (
    Draft,
    Open,
    Rules,
    Spelling,
    around,
    by_sections,
    sections,
    word_bias,
)

LETTERS = "\n ',.:[]12aabcdehiklnorstuACHLSVBé日"
CHARS = CharTokenizer.train([LETTERS])
BPE = ByteBPE.train(["la la\n\n[Chorus]\nlove is near\nthe road é 日本\n"] * 9, 290)
TOKENIZERS = {"char": CHARS, "bpe": BPE}


def babbler(tokenizer, seed=0, likes=None):
    """A random model that says words, lines and ends; `likes` {token: how much}."""
    torch.manual_seed(seed)
    shape = ModelConfig(block_size=24, n_layer=1, n_head=2, n_embd=16, tied_head=False)
    model = GPT(shape, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
        bias = torch.zeros(tokenizer.vocab_size)
        for text, much in {"\n": 2.0, " ": 2.0, "a": 1.0, "[": 0.5, "\n\n": 1.0}.items():
            ids = tokenizer.encode(text).tolist()
            bias[ids] = torch.maximum(bias[ids], torch.tensor(much))
        for i, much in (likes or {}).items():
            bias[i] = much
        for i in range(tokenizer.vocab_size):  # half characters would spell nonsense
            if not set(tokenizer.decode([i])) <= set(LETTERS) and i != tokenizer.eot:
                bias[i] = -60.0
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight += bias[:, None] / 16
    return model


def repeater(tokenizer):
    """One that says the same few words."""
    seed, much = {"char": (4, 2.0), "bpe": (1, 4.0)}[tokenizer.kind]
    return babbler(tokenizer, seed, dict.fromkeys(tokenizer.encode(" na").tolist(), much))


def written(model, drafts, tokenizer, **sampling):
    """Run them all; what each streamed, piece by piece."""
    never = tokenizer.never_sampled()
    by_row, streams = {id(d.row): d for d in drafts}, {id(d): "" for d in drafts}
    for row, token in generate(model, [d.row for d in drafts], Sampling(never=never, **sampling)):
        draft = by_row[id(row)]
        draft.take(token)
        streams[id(draft)] += draft.fresh()
    return [streams[id(d)] + d.fresh() for d in drafts]


def draft(plan, tokenizer=CHARS, rules=None, seed=0, left=120, headed=True, size=None):
    spelling = Spelling(tokenizer, size or tokenizer.vocab_size)
    front = [tokenizer.eot]
    return Draft(plan, rules or Rules(), spelling, front=front, headed=headed, seed=seed, left=left)


def lines_of(text):
    return [line for line in sung_lines(text) if line.strip()]


def assert_sound(one, stream, tokenizer):
    """Ids, text, words and stream of a draft say the same."""
    ids = [i for i in one.row.ids[1:] if i != tokenizer.eot]
    said = tokenizer.decode(ids[: len(ids) - len(one._pending)])
    assert said.startswith(one.text)
    assert not said[len(one.text) :].strip() or one.finish == "end"  # of a token that was cut
    assert stream == one.text[one.body or 0 :]
    whole = one.text[one.body or 0 :]
    if not one.row.done:  # the last word may go on
        whole = re.sub(r"[\w'’]*\Z", "", whole)
    in_header = re.sub(r"^\[.*$", "", whole, flags=re.MULTILINE)
    assert one.words == words(in_header)


# --- form -----------------------------------------------------------------------------------------

PLANS = {
    "a song": ["", Open("song")],
    "a song that begins": ["La é\nno", Open("song")],
    "of five lines": ["", Open("song", lines=5)],
    "of five lines, one of them begun": ["[Verse 1]\nLa la\nno", Open("song", lines=5)],
    "of two stanzas": ["", Open("song", stanzas=2)],
    "sections": by_sections(sections("Verse 1, Chorus, Verse 2, Chorus"), "", None),
    "sections of three lines": by_sections(sections("verse 1,hook,solo,Hook"), "La", 3),
    "some lines": around("[Verse 1]\nla\nlo\n\n[Chorus]\nle\nli\nlu", {1, 3}),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_kept_whatever_the_model_would_rather_do(name, tokenizer):
    eot = {tokenizer.eot: 1.5}  # it would rather stop
    model = babbler(tokenizer, likes=eot)
    rules = Rules(no_repeat=3, banned=[("la",), ("a", "a")], repetition=1.1)
    drafts = [
        draft(PLANS[name], tokenizer, rules, seed=seed, left=400, headed=seed % 2)
        for seed in range(6)
    ]
    streams = written(model, drafts, tokenizer)
    assert sum(d.row.done for d in drafts) >= 4
    for one, stream in zip(drafts, streams, strict=True):
        assert_sound(one, stream, tokenizer)
        if not one.row.done:
            assert one.finish == "length"
            continue
        song = one.text[one.body or 0 :]
        lines = lines_of(song)
        if "five lines" in name:
            assert len(lines) == 5
            assert one.finish in ("lines", "end")
        if "begun" in name:
            assert song.startswith("[Verse 1]\nLa la\nno")
        if name == "of two stanzas":
            stanzas = [s for s in re.split(r"\n\s*\n", song) if lines_of(s)]
            assert len(stanzas) == 2
        if name.startswith("sections"):
            headers = re.findall(r"(?m)^\[.*\]$", song)
            parts = re.split(r"(?m)^\[[^\n]*\]$", song)[1:]
            solo = ["[Verse 1]", "[Hook]", "[Solo]", "[Hook]"]
            known = solo if "three" in name else ["[Verse 1]", "[Chorus]", "[Verse 2]", "[Chorus]"]
            assert headers == known
            first, again = (parts[1], parts[3])
            assert first.strip() == again.strip() != ""
            for header, part in zip(headers, parts, strict=True):
                n = len(lines_of(part))
                assert n == (0 if header == "[Solo]" else 3) if "three" in name else 1 <= n <= 16
        if name == "some lines":
            kept = dict(enumerate(song.split("\n")))
            assert [kept[i] for i in (0, 1, 3, 4, 5)] == ["[Verse 1]", "la", "", "[Chorus]", "le"]
            assert len(kept) == 8
            assert all(kept[i].strip() and kept[i][0] != "[" for i in (2, 6, 7))


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_alone_and_among_others_a_draft_becomes_the_same_song(tokenizer):
    model = babbler(tokenizer, likes={tokenizer.eot: 1.0})
    rules = Rules(no_repeat=2, presence=0.5, stop=["no", "\n\n\n"])

    def drafts():
        return [draft(plan, tokenizer, rules, seed=i) for i, plan in enumerate(PLANS.values())]

    together = drafts()
    written(model, together, tokenizer)
    for one, other in zip(together, drafts(), strict=True):
        written(model, [other], tokenizer)
        assert (one.text, one.finish, one.refused) == (other.text, other.finish, other.refused)


def test_headers_are_written_as_in_the_training_songs_and_a_chorus_comes_again():
    assert sections("verse 1, Strophe 2,PRE-CHORUS , [Refrão], My part") == [
        "[Verse 1]", "[Verse 2]", "[Pre-Chorus]", "[Chorus]", "[My part]",
    ]  # fmt: skip
    plan = by_sections(["[Verse]", "[Chorus]", "[Verse]", "[Chorus]"], "", None)
    kinds = [type(part).__name__ for part in plan if not isinstance(part, str)]
    assert kinds == ["Open", "Open", "Open", "Again"]  # another verse is another one


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_banned_words_and_repeated_runs_never_stand_in_what_was_drawn(tokenizer):
    model = repeater(tokenizer)
    plain = [draft(PLANS["a song"], tokenizer, seed=i, left=160) for i in range(6)]
    written(model, plain, tokenizer)
    often = [w for w, _ in Counter(w for d in plain for w in d.words).most_common(2)]
    rules = Rules(banned=[(w,) for w in often], no_repeat=2)
    drafts = [draft(PLANS["a song"], tokenizer, rules, seed=i, left=160) for i in range(6)]
    for one, stream in zip(drafts, written(model, drafts, tokenizer), strict=True):
        assert_sound(one, stream, tokenizer)
        assert not set(often) & set(one.words)
        runs = list(zip(one.words, one.words[1:], strict=False))
        assert len(runs) == len(set(runs))
    refused = sum((d.refused for d in drafts), Counter())
    assert refused["banned words"] > 0
    assert refused["words that stood before"] > 0


def test_what_was_said_is_not_judged_but_counts():
    rules = Rules(banned=[("la",)], no_repeat=2)
    one = draft(["la la lo", Open("song")], rules=rules)
    assert one.words == ["la", "la"]  # lo may go on
    for c in "t. ":
        one.row.ids += CHARS.encode(c).tolist()
        one.take(one.row.ids[-1])
    assert one.words == ["la", "la", "lot"]
    assert not one.refused


def test_runs_of_training_songs_longer_than_allowed_are_taken_back_and_told():
    tale = "no tale is told on the road and no star burns "
    said = words(tale)

    def copied(run):
        return any(said[i : i + len(run)] == list(run) for i in range(len(said)))

    # a model that knows the tale by heart, and where it may not go on with it babbles
    one = draft(["", Open("song")], rules=Rules(copied=copied, max_copy=3), left=10**6)
    while len(one.text) < 2 * len(tale):
        place, rest = len(one.row.ids), tale[len(one.text) % len(tale) :]
        wanted = CHARS.encode(rest + LETTERS.replace("[", "")).tolist()
        one.row.ids.append(next(i for i in wanted if i not in one.row.forbidden.get(place, ())))
        one.take(one.row.ids[-1])
    assert not any(copied(one.words[i : i + 4]) for i in range(len(one.words) - 3))
    assert one.words[:3] == said[:3]
    assert one.refused["words of a training song"] > 1


def test_a_song_ends_before_a_stop_string_which_is_never_shown():
    one, shown = draft(["", Open("song")], rules=Rules(stop=["rest", "at la"])), ""
    for c in "a bale at last":
        one.row.ids += CHARS.encode(c).tolist()
        one.take(one.row.ids[-1])
        shown += one.fresh()
        if one.row.done:
            break
    assert one.text == shown == "a bale "
    assert one.finish == "end"
    assert CHARS.decode(one.row.ids[1:]) == one.text


# --- wishes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["b e i", "be i", "b ei", "bei"])
def test_the_change_of_a_word_adds_up_over_the_tokens_that_spell_it(way):
    tokenizer = ByteBPE.train(["bei be ei"] * 9, 300)
    spelling = Spelling(tokenizer, tokenizer.vocab_size)
    begun, total = "", 0.0
    for text in [*way.split(), "\n"]:
        bias = word_bias(begun, {"bei": -4.0, "xyz": 9}, spelling)
        total += bias[tokenizer.vocabulary()[text if text != "\n" else "Ċ"]].item()
        begun += text
        assert bias[tokenizer.vocabulary()["s"]] == 0
    assert total == pytest.approx(-4.0)
    spaced = word_bias("", {"bei": -4.0}, spelling)[tokenizer.vocabulary()["Ġbe"]].item()
    assert spaced == word_bias("", {"bei": -4.0}, spelling)[tokenizer.vocabulary()["be"]].item() < 0


def test_penalties_make_words_rarer_and_a_bias_more_frequent():
    model = repeater(CHARS)

    def share(word, **rules):
        drafts = [
            draft(["", Open("song")], rules=Rules(**rules), seed=i, left=120) for i in range(30)
        ]
        written(model, drafts, CHARS)
        said = [w for d in drafts for w in d.words]
        return said.count(word) / len(said), len(set(said)) / len(said)

    plain, variety = share("a")
    assert plain > 0.05
    assert share("a", bias={"a": 2.0})[0] > 1.5 * plain
    assert share("a", bias={"a": -2.0})[0] < 0.6 * plain
    assert share("a", repetition=1.5)[1] > variety + 0.02
    assert share("a", presence=2.0)[1] > variety + 0.02


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "song"),
    [
        ("title: la\n\nno one\n", "no one\n"),
        ("title: la\nno one\n", "title: la\nno one\n"),  # no blank line: no header
        ("tin can\n", "tin can\n"),
        ("\nla\n", "\nla\n"),
        ("title: la", "title: la"),  # it ends in the middle
    ],
)
def test_a_header_of_the_models_own_is_neither_streamed_nor_sung(text, song):
    one, shown = draft(["", Open("song")], headed=False), ""
    for i in CHARS.encode(text).tolist():
        one.row.ids.append(i)
        one.take(i)
        shown += one.fresh()
    one.row.ids.append(CHARS.eot)
    one.take(CHARS.eot)
    assert shown + one.fresh() == song
    assert one.words == words(song)


def test_half_a_character_is_never_shown_and_whole_ones_are():
    one, shown = draft(["", Open("song")], BPE), []
    for i in [*BPE.encode("é 日 ").tolist(), BPE.eot]:
        one.row.ids.append(i)
        one.take(i)
        shown.append(one.fresh())
    assert "".join(shown) == one.text == "é 日 "
    assert all("\ufffd" not in part for part in shown)


def test_a_header_inside_a_song_is_taken_back_before_it_is_shown():
    one, shown, place = draft(["", Open("song")]), "", 0
    for c in "la\ntitle: ":
        place = place or (len(one.row.ids) if one.text == "la\n" else 0)
        one.row.ids += CHARS.encode(c).tolist()
        one.take(one.row.ids[-1])
        shown += one.fresh()
    assert one.text == "la\n"
    assert shown == "la"
    assert one.row.forbidden == {place: set(CHARS.encode("t").tolist())}
    assert one.refused == {"header lines": 1}


def test_an_empty_song_is_not_taken_for_one():
    one = draft(["", Open("song")], headed=False)
    for i in (CHARS.eot, *CHARS.encode(" \n").tolist(), CHARS.eot):
        one.row.ids.append(i)
        one.take(i)
    assert not one.row.done
    assert one.row.forbidden == {1: {CHARS.eot}, 3: {CHARS.eot}}
    assert one.finish == "length"
    assert word_bias("a" * 1200, {"a" * 1200: -3.0}, one.spelling).min() == pytest.approx(-1.5)
