"""Snapshots: a restored run reaches the same bits; a snapshot of another run is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.distributed import Communicator
from distcnn.errors import InputError
from distcnn.training.checkpointing import make_checkpoint, parse_checkpoint, restore_checkpoint
from distcnn.training.ledger import all_entries
from distcnn.training.loop import Loop
from distcnn.training.setup import Run
from tests.conftest import MakeImageSet, write_image_set
from tests.support.training_fixtures import loop_of, prepare

RECEIPT_SO_FAR = '{"kind": "start", "step": 0, "configuration": {}}\n'


def snapshot_of(loop: Loop) -> Checkpoint:
    entries = all_entries(loop.run.training_step.ledger, Communicator(), loop.run.config.num_shards)
    lines = {"metrics": '{"kind": "step"}\n', "receipt": RECEIPT_SO_FAR}
    return make_checkpoint(loop.run, loop.state, entries, lines)


def at_step(run: Run, step: int, end_epoch: bool = True) -> Loop:
    loop = loop_of(run)
    loop.go_to(step, end_epoch)
    return loop


def everything(loop: Loop) -> dict[str, Any]:
    """All that must be equal; seconds need not be."""
    state = without_seconds(loop.state.to_json())
    optimizer = loop.run.training_step.updater
    return {
        "weights": loop.run.parameters.values.tobytes(),
        "optimizer": {name: vector.tobytes() for name, vector in optimizer.state.items()},
        "optimizer's steps": optimizer.steps_taken,
        "state": state,
        "ledger": loop.run.training_step.ledger.entries(),
    }


def without_seconds(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {
        key: without_seconds(each) for key, each in values.items() if not key.endswith("seconds")
    }


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "adam"},
        {"optimizer": "nesterov", "weight_decay": 0.01},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
)
@pytest.mark.parametrize(("step", "end_epoch"), [(3, True), (4, True), (4, False), (6, True)])
def test_a_restored_run_continues_to_the_same_bits(
    flags: dict[str, Any], step: int, end_epoch: bool, image_set: MakeImageSet, tmp_path: Path
) -> None:
    rate = {"learning_rate": 0.003} if flags["optimizer"] == "adam" else {}
    first = at_step(prepare(image_set(), **flags, **rate), step, end_epoch)
    store = CheckpointStore(tmp_path)
    store.save(step, snapshot_of(first))
    run = prepare(image_set(), **flags, **rate)
    second = loop_of(run, restore_checkpoint(run, store.load(step)))
    assert everything(second) == everything(first)
    assert second.state.whole == first.state.whole
    assert second.state.epoch_end_pending == (not end_epoch)
    for loop in (first, second):
        loop.go_to(8)
    assert everything(second) == everything(first)
    assert everything(first)["state"]["whole"]["examples"] == 2 * 203


def test_a_snapshot_holds_copies(image_set: MakeImageSet) -> None:
    loop = at_step(prepare(image_set(), optimizer="adam", learning_rate=0.003), 2)
    snapshot = snapshot_of(loop)
    before = {name: array.tobytes() for name, array in snapshot.arrays.items()}
    state = snapshot.texts["state"]
    loop.go_to(4)
    assert {name: array.tobytes() for name, array in snapshot.arrays.items()} == before
    assert snapshot.texts["state"] == state
    vectors = [loop.run.parameters.values, *loop.run.training_step.updater.state.values()]
    assert not any(
        np.shares_memory(array, vector) for array in snapshot.arrays.values() for vector in vectors
    )


def test_what_a_snapshot_says(image_set: MakeImageSet) -> None:
    loop = at_step(prepare(image_set(), seed=2**64 - 1), 6)
    snapshot = snapshot_of(loop)
    wanted = {
        "seed": str(2**64 - 1),
        "step": 6,
        "epoch": 1,
        "step_of_epoch": 2,
        "optimizer_steps": 6,
        "model": "tutorial",
    }
    assert {name: snapshot.attributes[name] for name in wanted} == wanted
    assert snapshot.arrays["shards/examples_used"].tolist() == [16] * 8
    assert sorted(snapshot.folder("weights")) == [
        "conv1.bias",
        "conv1.weight",
        "dense1.bias",
        "dense1.weight",
    ]
    assert snapshot.arrays["optimizer/velocity/conv1.weight"].shape == (8, 1, 3, 3)
    assert (snapshot.texts["metrics"], snapshot.texts["receipt"]) == (
        '{"kind": "step"}\n',
        RECEIPT_SO_FAR,
    )
    assert json.loads(snapshot.texts["configuration"]) == dataclasses.asdict(loop.run.config)
    assert json.loads(snapshot.texts["dataset"]) == loop.run.dataset_record.identity


def test_at_an_epochs_end_all_examples_of_it_are_used(image_set: MakeImageSet) -> None:
    snapshot = snapshot_of(at_step(prepare(image_set()), 4))
    assert (snapshot.attributes["epoch"], snapshot.attributes["step_of_epoch"]) == (0, 4)
    assert int(np.sum(snapshot.arrays["shards/examples_used"])) == 203
    first = snapshot_of(loop_of(prepare(image_set())))
    assert (
        first.attributes["epoch"],
        first.attributes["step_of_epoch"],
        int(np.sum(first.arrays["shards/examples_used"])),
    ) == (0, 0, 0)


def test_another_image_set_is_refused(image_set: MakeImageSet, tmp_path: Path) -> None:
    loop = at_step(prepare(image_set()), 3)
    other = prepare(write_image_set(tmp_path / "set.h5", train=203, test=76))
    with pytest.raises(
        InputError, match=r"^--data: .*set\.h5 is not the image set the run was started with"
    ) as caught:
        restore_checkpoint(other, snapshot_of(loop))
    assert (
        f"{other.dataset_record.content_sha256}, not {loop.run.dataset_record.content_sha256})"
        in str(caught.value)
    )
    assert "name the set 'squares' of 203 training examples" in str(caught.value)
    moved = prepare(write_image_set(tmp_path / "moved.h5"))  # the same content elsewhere
    assert restore_checkpoint(moved, snapshot_of(loop)).step == 3


def test_another_network_is_refused(image_set: MakeImageSet) -> None:
    snapshot = snapshot_of(at_step(prepare(image_set()), 3))
    with pytest.raises(InputError, match=r"the checkpoint's weights are .*conv1\.weight"):
        restore_checkpoint(prepare(image_set(), model="mlp"), snapshot)
    changed = {
        name.replace("optimizer/velocity/conv1.bias", "optimizer/velocity/b"): array
        for name, array in snapshot.arrays.items()
    }
    with pytest.raises(InputError, match=r"the checkpoint's optimizer/velocity are "):
        restore_checkpoint(prepare(image_set()), dataclasses.replace(snapshot, arrays=changed))
    with pytest.raises(InputError, match=r"the checkpoint's optimizer/first_moment are \{\}"):
        restore_checkpoint(prepare(image_set(), optimizer="adam"), snapshot)


@pytest.mark.parametrize("step", [3, 4, 7])
def test_another_order_of_examples_is_refused(step: int, image_set: MakeImageSet) -> None:
    snapshot = snapshot_of(at_step(prepare(image_set()), step))
    with pytest.raises(
        InputError, match=rf"^checkpoint of step {step}: shard 0 had used \d+ examples"
    ):
        restore_checkpoint(prepare(image_set(), seed=1), snapshot)
    used = snapshot.arrays["shards/examples_used"].copy()
    used[5] += 1
    with pytest.raises(
        InputError, match=rf"^checkpoint of step {step}: shard 5 had used {used[5]} "
    ):
        restore_checkpoint(
            prepare(image_set()),
            dataclasses.replace(snapshot, arrays={**snapshot.arrays, "shards/examples_used": used}),
        )


# -- forged: whole, but distcnn did not write it


@pytest.fixture(scope="module")
def genuine(image_set: MakeImageSet) -> Checkpoint:
    """After an epoch, so that it contains an evaluation."""
    return snapshot_of(at_step(prepare(image_set()), 5))


MADE_UP = [None, True, -1, 0, 3.5, 1e300, "", "x", [], [1], {}, {"a": 1}, 10**30]


@pytest.mark.parametrize("name", ["configuration", "dataset", "state", "orders_sha256"])
def test_a_text_that_was_made_up_is_refused(name: str, genuine: Checkpoint) -> None:
    parse_checkpoint(genuine)
    for text in ("", "{", "[" * 100_000, *(json.dumps(each) for each in MADE_UP if each != {})):
        with pytest.raises(InputError, match="the checkpoint of step 5 has unexpected content"):
            parse_checkpoint(dataclasses.replace(genuine, texts={**genuine.texts, name: text}))
    with pytest.raises(InputError, match=name):
        parse_checkpoint(
            dataclasses.replace(
                genuine, texts={key: text for key, text in genuine.texts.items() if key != name}
            )
        )


@pytest.mark.parametrize("name", ["configuration", "dataset", "state"])
def test_a_value_of_another_type_in_a_text_is_refused_or_does_no_harm(
    name: str, genuine: Checkpoint
) -> None:
    values, refused = json.loads(genuine.texts[name]), 0
    for key in values:
        for made_up in MADE_UP:
            forged = dataclasses.replace(
                genuine, texts={**genuine.texts, name: json.dumps({**values, key: made_up})}
            )
            try:
                parse_checkpoint(forged)
            except InputError:
                refused += 1
    assert refused > 3 * len(values)


def test_a_best_test_that_was_made_up_is_refused(genuine: Checkpoint) -> None:
    state = json.loads(genuine.texts["state"])
    for key in ("best_step", "best_correct", "test_step", "step"):
        for made_up in ("x", 3.5, True, [1], 10**30):
            if key != "best_correct" or made_up != 10**30:
                with pytest.raises(InputError, match="unexpected content"):
                    parse_checkpoint(
                        dataclasses.replace(
                            genuine,
                            texts={**genuine.texts, "state": json.dumps({**state, key: made_up})},
                        )
                    )


def test_arrays_and_counts_of_another_type_are_refused(
    genuine: Checkpoint, image_set: MakeImageSet
) -> None:
    for used in (np.zeros(3, np.int64), np.zeros(8, np.float32), np.int64(3)):
        with pytest.raises(InputError, match="examples_used"):
            parse_checkpoint(
                dataclasses.replace(
                    genuine, arrays={**genuine.arrays, "shards/examples_used": np.asarray(used)}
                )
            )
    with pytest.raises(InputError, match="optimizer_steps"):
        parse_checkpoint(
            dataclasses.replace(genuine, attributes={**genuine.attributes, "optimizer_steps": "x"})
        )
    name = "weights/conv1.bias"
    for array in (genuine.arrays[name].astype(np.int64), genuine.arrays[name][:-1]):
        with pytest.raises(InputError, match="the checkpoint's weights are"):
            restore_checkpoint(
                prepare(image_set()),
                dataclasses.replace(genuine, arrays={**genuine.arrays, name: array}),
            )
