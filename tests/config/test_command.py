"""The command line and the configuration are one and the same."""

import dataclasses
import json
from pathlib import Path

import click
import pytest

from bids_semantoks.config import AppConfig, EncoderConfig, SignalsConfig, command, from_json, to_json
from bids_semantoks.config.call import parse_memory
from bids_semantoks.errors import ConfigurationError


def parse(*arguments: str) -> AppConfig:
    return command.parse(["in", "out", "participant", *arguments])


def test_no_options_give_the_defaults():
    assert parse() == AppConfig(bids_dir=Path("in"), out_dir=Path("out"), level="participant")


def test_every_field_of_every_stage_has_an_option():
    flags = {flag for _, section in command.build_options() for option in section for flag in option.opts}
    for _, stage in command.find_stages():
        # A field without metadata takes further values of another option.
        for field in filter(lambda one: one.metadata, dataclasses.fields(stage)):
            assert f"--{field.name.replace('_', '-')}" in flags
            assert set(field.metadata["aliases"]) <= flags
    fields = [field.name for _, stage in command.find_stages() for field in dataclasses.fields(stage) if field.metadata]
    assert list(command.read_help()) == fields


@pytest.mark.parametrize(
    "arguments",
    [
        ["--participant-label", "01", "02", "03"],
        ["--participant_label", "01", "02", "--participant-label", "03"],
        ["--participant-label", "01", "--participant-label", "02", "03", "-q"],
    ],
)
def test_lists_take_several_values_after_one_flag(arguments):
    assert parse(*arguments).selection.participant_label == ("01", "02", "03")


def test_datasets_are_not_taken_for_preparations_of_another_level(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"level": "participant", "selection": {"derivatives": ["fmriprep=x"], "run_id": ["1"]}}))
    at = {}
    for level, more in (("participant", []), ("group", []), ("group", ["--task-blocks", "trial_type"])):
        config = command.parse(["in", "out", level, "--config-file", str(path), *more])
        at[level, *more] = config.selection.derivatives
        assert config.selection.run_id == ("1",)
    assert list(at.values()) == [("fmriprep=x",), (), ("fmriprep=x",)]


def test_several_encoders_are_one_to_embed_by_and_others_to_compare_with(tmp_path):
    group = ["in", "out", "group"]
    embedding = command.parse([*group, "--model", "a", "b", "c"]).embedding
    assert (embedding.model, embedding.more_models) == ("a", ("b", "c"))
    with pytest.raises(ConfigurationError, match=r"--model.*2 encoders"):
        parse("--model", "a", "b")
    with pytest.raises(ConfigurationError, match=r"--model.*2 encoders"):
        command.parse([*group, "--pretrain", "--model", "a", "b"])
    # One encoder on the command line replaces all of an earlier call.
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"embedding": {"model": "a", "more_models": ["b"]}}))
    assert command.parse([*group, "--config-file", str(path)]).embedding.more_models == ("b",)
    assert command.parse([*group, "--config-file", str(path), "--model", "c"]).embedding.more_models == ()


def test_the_benchmark_has_more_repetitions_unless_their_number_is_given():
    shared = ["in", "out", "group", "--probe", "sex", "--protocol"]
    assert command.parse([*shared, "brainmarks"]).probing.n_repeats == 100
    assert command.parse([*shared, "brainmarks", "--n-repeats", "10"]).probing.n_repeats == 10
    assert command.parse([*shared, "paper"]).probing.n_repeats == 10


def test_a_list_flag_without_value_is_a_bad_call():
    with pytest.raises(click.UsageError, match="'--participant-label' needs at least one value"):
        parse("--participant-label", "--quiet")


def test_underscores_stand_for_hyphens_in_flags_alone():
    config = parse("--task_id", "a_b", "c", "--n_cpus=2", "--model=random_x", "--dry_run", "--min_time", "7")
    assert config.selection.task_id == ("a_b", "c")
    assert (config.running.n_procs, config.running.dry_run) == (2, True)
    assert (config.embedding.model, config.signals.min_time) == ("random_x", 7.0)


def test_contract_spellings():
    config = parse(
        *("-t", "rest", "-w", "work", "--nprocs", "3", "--session-label", "1", "-d", "a=b", "c", "-vv", "--notrack"),
        *("--band-pass", "0.009", "0.08", "--fd-threshold", "0.5", "--dummy-scans", "4", "--pooling", "cls"),
    )
    assert config.selection.task_id == ("rest",)
    assert config.selection.session_id == ("1",)
    assert config.selection.derivatives == ("a=b", "c")
    assert config.running.work_dir == Path("work")
    assert config.running.n_procs == 3
    assert config.running.verbose == 2
    assert config.signals.band_pass == (0.009, 0.08)
    assert config.signals.fd_threshold == 0.5
    assert config.signals.dummy_scans == "4"
    assert config.embedding.pooling == ("cls",)
    assert parse("--no-band-pass").signals.band_pass is None
    assert parse("--n-cpus", "2").running.n_procs == 2


def test_config_file_gives_the_same_configuration_back(tmp_path):
    config = parse("--denoise", "36p", "--no-band-pass", "--participant-label", "01", "--n-windows", "3")
    (tmp_path / "c.json").write_text(json.dumps(to_json(config)))
    assert parse("--config-file", str(tmp_path / "c.json")) == config
    overridden = parse("--config-file", str(tmp_path / "c.json"), "--denoise", "24p")
    assert overridden.signals == dataclasses.replace(config.signals, denoise="24p")


def test_config_file_with_unknown_keys_is_refused(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"signals": {"denoize": "36p"}}')
    with pytest.raises(ConfigurationError, match="unknown keys: denoize"):
        parse("--config-file", str(path))
    path.write_text('{"signal": {}}')
    with pytest.raises(ConfigurationError, match="unknown keys: signal"):
        parse("--config-file", str(path))
    path.write_text('{"signals": {"min_time": "long"}}')
    with pytest.raises(ConfigurationError, match="min_time must be float, found 'long'"):
        parse("--config-file", str(path))
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="Cannot read the configuration file"):
        parse("--config-file", str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--band-pass", "0.1", "0.01"), "found 0.1 0.01"),
        (("--band-pass", "0.1", "0.2", "--no-band-pass"), "--no-band-pass"),
        (("--fd-threshold", "-1"), r"found -1\.0"),
        *[
            (("--motion-filter", text), f"found '{text}'")
            for text in ("0.1", "lp:0", "lp:nan", "lp:1e999", "notch:12", "notch:18-12", "notch:9-9", "notch:0-9")
        ],
        (("--dummy-scans", "some"), "found 'some'"),
        (("--min-coverage", "50"), "found 50"),
        (("--min-time", "-5"), "found -5"),
        (("--min-time", "inf"), "must be finite"),
        (("--fd-threshold", "nan"), "must be finite"),
        (("--band-pass", "0.01", "inf"), "must be finite"),
        (("--batch-size", "0"), "found 0"),
        (("--n-windows", "0"), "found 0"),
        (("--n-procs", "0"), "found 0"),
        (("--mem", "lots"), "found 'lots'"),
    ],
)
def test_impossible_values_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(*arguments)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512 << 20), ("8G", 8 << 30), ("1.5GB", 3 << 29), ("2GiB", 2 << 30), ("1T", 1 << 40)]
)
def test_memory_sizes(text, size):
    assert parse_memory(text) == size


def test_encoder_config_refuses_what_cannot_be_built():
    with pytest.raises(ConfigurationError, match="window 90 and patch 20"):
        EncoderConfig(window=90)
    with pytest.raises(ConfigurationError, match="length 16, found 10"):
        EncoderConfig(patch=10)
    with pytest.raises(ConfigurationError, match="found 'sparse'"):
        EncoderConfig(dense="sparse")
    with pytest.raises(ConfigurationError, match="unknown keys: dephts"):
        from_json(EncoderConfig, {"dephts": 2})


def test_integers_pass_for_floats_and_bools_do_not():
    assert from_json(SignalsConfig, {"min_time": 5}).min_time == 5.0
    with pytest.raises(ConfigurationError, match="min_time must be float, found True"):
        from_json(SignalsConfig, {"min_time": True})
