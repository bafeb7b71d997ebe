"""Which attention goes with what, and models by name on the command line."""

import pytest

from backend.config import kinds
from backend.config.loader import from_values, load
from backend.config.schema import PRESETS, ModelConfig, TrainConfig
from backend.errors import ConfigError

STEP = "--tokens_per_step=1024"
FREE = {"none", "row", "row_sqrt", "norm", "T"}
POINTWISE = FREE - {"norm"}
ALLOWED = {
    "SM": {"none"},
    "GK": FREE,
    "GKpoly-1": FREE,
    "GKpoly-8": FREE,
    "GKpoly-20": FREE,
    "PA_gelu": POINTWISE,
    "PA_relu": POINTWISE,
    "PA_sigmoid": FREE,
    "PA_square": FREE,
    "PA_relu-square": POINTWISE,
}
EVERY = [(kind, scale) for kind in ALLOWED for scale in sorted(FREE)]


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def refused(*argv):
    with pytest.raises(ConfigError) as caught:
        load(TrainConfig, [STEP, *argv])
    return str(caught.value)


# --- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("GKpoly-0", "GKpoly-21", "GKpoly-99", "GKpoly-100", "GKpoly-x", "GKpoly", "GKpoly-"),
        *("GKpoly-08", "GKpoly--1", "GKpoly-2.0", "GKpoly-8 ", "GKpoly-1+1", "gk", "PA", "PA_", ""),
        *("PA_tanh", "softmax", "?", "SM,GK"),
    ],
)
def test_an_unknown_kind_is_refused_with_the_list_of_those_there_are(name):
    said = refused(f"--attn_type={name}")
    assert f"attn_type = {name!r} is none of " in said
    for known in ("SM", "GK,", "GKpoly-<1 to 20>", *(k for k in ALLOWED if k.startswith("PA_"))):
        assert known in said


@pytest.mark.parametrize("n", range(1, 21))
def test_gkpoly_takes_1_to_20_squarings(n):
    assert load(TrainConfig, [STEP, f"--attn_type=GKpoly-{n}"]).attn_type == f"GKpoly-{n}"
    assert kinds.squarings(f"GKpoly-{n}") == n


@pytest.mark.parametrize("name", ["SM", "GK", "PA_gelu", "GKpoly", "GKpoly-0", "GKpoly-21"])
def test_other_kinds_have_no_squarings(name):
    assert kinds.squarings(name) is None


@pytest.mark.parametrize(("kind", "scale"), EVERY)
def test_a_scale_is_taken_where_it_has_a_meaning_and_else_refused_with_the_reason(kind, scale):
    values = {"tokens_per_step": 1024, "attn_type": kind, "attn_scale": scale}
    if scale in ALLOWED[kind]:
        assert from_values(TrainConfig, values).attn_scale == scale
        return
    with pytest.raises(ConfigError) as caught:
        from_values(TrainConfig, values)
    said = str(caught.value)
    assert f"attn_scale = {scale} does not go with attn_type = {kind}: " in said
    reason = {"SM": "softmax sums to one already", "PA_gelu": "negative weights"}
    assert reason.get(kind, "a row of zeros") in said
    offered = said.rpartition("it may be ")[2].splitlines()[0]
    assert set(offered.split(", ")) == ALLOWED[kind]


@pytest.mark.parametrize("scale", sorted(FREE - {"norm"}))
def test_a_scale_can_be_said_on_the_command_line(scale):
    config = load(TrainConfig, [STEP, "--attn_type=PA_gelu", f"--attn_scale={scale}"])
    assert config.resolved().attn_scale == scale


def test_a_recipe_may_switch_the_scale_of_a_pointwise_kind_off(recipe):
    config = load(TrainConfig, [recipe("attn_type = 'PA_gelu'\nattn_scale = 'none'"), STEP])
    assert config.resolved().attn_scale == "none"


def test_a_scale_that_there_is_not_is_refused_with_those_there_are():
    said = refused("--attn_type=GK", "--attn_scale=row_sqr")
    assert "none | row | row_sqrt | norm | T" in said
    assert "did you mean 'row_sqrt'?" in said


@pytest.mark.parametrize("kind", ALLOWED)
def test_the_scale_not_given_is_none_for_softmax_and_gaussian_and_row_for_pointwise(kind):
    config = ModelConfig(attn_type=kind).resolved()
    assert config.attn_scale == ("row" if kind.startswith("PA_") else "none")
    assert config == ModelConfig(attn_type=kind, attn_scale=config.attn_scale)
    assert config.resolved() == config


@pytest.mark.parametrize(("kind", "scale"), [(k, s) for k, s in EVERY if s in ALLOWED[k]])
def test_a_scale_that_is_given_stays(kind, scale):
    assert ModelConfig(attn_type=kind, attn_scale=scale).resolved().attn_scale == scale


@pytest.mark.parametrize("position", ["learned", "rotary", "alibi"])
@pytest.mark.parametrize("kind", ALLOWED)
def test_every_kind_has_every_position_but_squares_no_alibi(kind, position):
    wrong = list(ModelConfig(attn_type=kind, position=position).problems())
    if (kind, position) != ("PA_square", "alibi"):
        assert not wrong
        return
    [said] = wrong
    assert said.startswith("position = alibi does not go with attn_type = PA_square: ")
    assert "penalty" in said
    assert said.endswith("it may be learned, rotary")


def test_all_that_does_not_go_together_is_told_at_once():
    said = refused("--attn_type=PA_gelu", "--attn_scale=norm", "--dropout=1", "--n_head=5")
    for word in ("3 problems", "attn_scale = norm", "dropout = 1", "n_head = 5"):
        assert word in said


# --- the shape -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_embd", "n_head", "size"), [(12, 4, 3), (5, 1, 5), (8, 8, 1)])
def test_rotary_wants_heads_of_an_even_size(n_embd, n_head, size):
    said = refused("--position=rotary", f"--n_embd={n_embd}", f"--n_head={n_head}")
    assert "1 problem with" in said
    assert "rotary" in said
    assert f"n_embd / n_head = {size} is odd" in said
    load(TrainConfig, [STEP, "--position=alibi", f"--n_embd={n_embd}", f"--n_head={n_head}"])


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--logit_softcap=0", "logit_softcap = 0.0 must be above 0, or none"),
        ("--logit_softcap=-3", "logit_softcap = -3.0 must be above 0"),
        ("--bigram=-1", "bigram = -1 must be at least 0"),
        ("--position=rotry", "did you mean 'rotary'?"),
        ("--init=fanin", "did you mean 'fan_in'?"),
        ("--activation=relu", "did you mean 'relu2'?"),
    ],
)
def test_an_impossible_part_is_told_with_its_key(word, told):
    assert told in refused(word)


# --- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "size"),
    [
        ("gpt2", (12, 12, 768)),
        ("gpt2-medium", (24, 16, 1024)),
        ("gpt2-large", (36, 20, 1280)),
        ("gpt2-xl", (48, 25, 1600)),
        ("xs", (10, 8, 512)),
        ("xxs", (4, 4, 64)),
    ],
)
def test_a_preset_sets_the_size_and_nothing_else(preset, size):
    config = load(TrainConfig, [STEP, f"--preset={preset}"])
    assert (config.n_layer, config.n_head, config.n_embd) == size
    sizes = {"n_layer", "n_head", "n_embd", "preset"}
    others = {k: v for k, v in config.as_dict().items() if k not in sizes}
    plain = load(TrainConfig, [STEP]).as_dict()
    assert others == {k: v for k, v in plain.items() if k not in sizes}
    assert config.preset == (preset,)


@pytest.mark.parametrize(
    "words", [["--preset=gpt2-medium", "--n_head=8"], ["--n_head=8", "--preset=gpt2-medium"]]
)
def test_a_key_beside_a_preset_wins_in_either_order(words):
    config = load(TrainConfig, [STEP, *words])
    assert (config.n_layer, config.n_head, config.n_embd) == (24, 8, 1024)


def test_a_key_beside_a_preset_in_a_recipe_wins(recipe):
    file = recipe("n_layer = 3\npreset = ('gpt2-medium',)\ntokens_per_step = 1024")
    config = load(TrainConfig, [file])
    assert (config.n_layer, config.n_head, config.n_embd) == (3, 16, 1024)


def test_a_preset_on_the_command_line_wins_over_the_keys_of_a_recipe(recipe):
    file = recipe("n_layer = 3\nn_head = 3\nn_embd = 48\ndropout = 0.1\ntokens_per_step = 1024")
    config = load(TrainConfig, [file, "--preset=xs"])
    assert (config.n_layer, config.n_head, config.n_embd) == (10, 8, 512)
    assert config.dropout == 0.1
    assert config.origins["n_layer"] == "command line"


def test_a_later_recipe_wins_over_the_preset_of_an_earlier_one(recipe):
    first = recipe("preset = ('xs',)\ntokens_per_step = 1024", "first.py")
    second = recipe("n_layer = 2", "second.py")
    config = load(TrainConfig, [first, second])
    assert (config.n_layer, config.n_head, config.n_embd) == (2, 8, 512)


@pytest.mark.parametrize(
    "words", [["--preset=xs,modern"], ["--preset=modern,xs"], ["--preset", "xs", "modern"]]
)
def test_several_presets_combine(words):
    config = load(TrainConfig, [STEP, *words])
    assert (config.n_layer, config.n_head, config.n_embd) == (10, 8, 512)
    assert (config.position, config.qk_norm, config.activation) == ("rotary", True, "relu2")
    assert (config.tied_head, config.zero_init, config.bias) == (False, True, False)
    assert config.logit_softcap == 15.0
    assert config.bigram > 0


def test_of_two_presets_for_one_key_the_last_wins():
    assert load(TrainConfig, [STEP, "--preset=xs,xxs"]).n_embd == 64
    assert load(TrainConfig, [STEP, "--preset=xxs,xs"]).n_embd == 512


def test_a_part_of_the_modern_preset_can_be_taken_back():
    config = load(TrainConfig, [STEP, "--preset=modern", "--logit_softcap=none", "--bigram=0"])
    assert (config.logit_softcap, config.bigram, config.qk_norm) == (None, 0, True)


def test_an_unknown_preset_is_refused_and_the_nearest_one_is_named():
    said = refused("--preset=gpt2-medum")
    assert "did you mean 'gpt2-medium'?" in said
    assert "xxs" in said
    assert "did you mean 'modern'?" in refused("--preset=xs,moden")


@pytest.mark.parametrize("text", ["preset = ('gpt2-medum',)", "preset = 'gpt2-medum'"])
def test_a_recipe_with_a_wrong_preset_is_refused_by_its_name(recipe, text):
    assert "mine.py: preset = " in refused_with(recipe(text))


def test_a_recipe_may_name_one_preset_without_a_list(recipe):
    config = load(TrainConfig, [recipe("preset = 'xs'"), STEP])
    assert (config.n_layer, config.n_head, config.n_embd) == (10, 8, 512)


def refused_with(file):
    with pytest.raises(ConfigError) as caught:
        load(TrainConfig, [file, STEP])
    return str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_possible_model(preset):
    config = load(TrainConfig, [STEP, f"--preset={preset}"]).part(ModelConfig)
    assert config == ModelConfig(**PRESETS[preset])
    assert not list(config.problems())
