"""Debugging in one process: a gradient check, checks of every array, a debugger at any step."""

from __future__ import annotations

import bdb
import pdb
from pathlib import Path

import numpy as np

from distcnn.checkpoints import Checkpoint
from distcnn.config import Config
from distcnn.config_parsing import Request
from distcnn.datasets import Microbatch, Part
from distcnn.distributed import Communicator
from distcnn.errors import InputError, TrainingError
from distcnn.models import find_model
from distcnn.nn import he_normal
from distcnn.nn.gradient_check import gradient_error
from distcnn.nn.layer import Array
from distcnn.nn.plan import Plan
from distcnn.random_streams import layer_streams
from distcnn.spans import DEBUG, Span
from distcnn.training.advice import advice_on, zero_gradients
from distcnn.training.checkpointing import restore_checkpoint
from distcnn.training.failures import check_pass
from distcnn.training.loop import Loop
from distcnn.training.receipt import Receipt, read_receipt
from distcnn.training.replay import follow, for_replay, warn_of_changes
from distcnn.training.resume import existing_run, merged_config, read_stored
from distcnn.training.run_files import Report
from distcnn.training.schedule import RunSchedule
from distcnn.training.setup import Run, prepare_run
from distcnn.training.state import State
from distcnn.training.step import Lane, Position
from distcnn.user_code import require_outside, require_trust

LARGEST_GRADIENT_ERROR = 1e-5
CHECKED_EXAMPLES = 2


def require_one_process(communicator: Communicator, flag: str) -> None:
    """``InputError`` on several ranks: a debugger needs a terminal of its own."""
    if communicator.world_size > 1:
        raise InputError(
            f"{flag} needs one process, not {communicator.world_size} ranks: leave the launcher"
            " out, one process gets the same bits"
        )


def check_network(run: Run, say: Report) -> None:
    """Check the network's gradients in float64, and every layer's numbers from now on."""
    name, shape = run.config.model, run.dataset.image_shape
    model = find_model(name)(shape, run.dataset.classes)
    rng = np.random.default_rng(0)
    parameters = model.initialise(shape, rng, np.float64)
    images = rng.standard_normal((*shape, CHECKED_EXAMPLES))
    random_source = layer_streams(run.config.seed, step=0, shard=0)
    gradient = np.zeros_like(parameters.values)
    error = gradient_error(model, images, rng, parameters, random_source, gradient=gradient)
    zero = zero_gradients(parameters.named(gradient))
    # A unit at a kink, as those of ReLU are where all weights are zero, has no gradient to compare.
    if not error < LARGEST_GRADIENT_ERROR:
        for key, described in parameters.described.items():
            drawn = he_normal(rng, described.shape, described.fan_in, described.fan_out)
            parameters.assign({key: drawn})
        error = gradient_error(model, images, rng, parameters, random_source)
    if not error < LARGEST_GRADIENT_ERROR:
        raise TrainingError(
            f"gradient check: the backward of model {name!r} is wrong: relative error {error:.2g}"
            f" along a random direction, it must be below {LARGEST_GRADIENT_ERROR:g}: check the"
            " backward of its layers one by one (distcnn.nn.gradient_error)"
        )
    passed = f"gradient check passed, relative error {error:.1e}"
    say(f"debug    {passed}; from here on every layer's values are checked for NaN and infinity")
    if zero:
        say(f"warning: with the initial weights, {advice_on(zero)}")
    training_step = run.training_step

    def check_shard(at: Position, shard: Part, lane: Lane) -> None:
        random_source = training_step.streams(at.step, shard.index)
        check_pass(lane.plan, training_step.loss, lane.microbatch, random_source)

    training_step.add_hook(check_shard)


def break_at(request: Request, communicator: Communicator, say: Report) -> None:
    """Replay to a step, open the debugger at one of its shards, finish it; write nothing."""
    assert request.break_at_step is not None
    at, shard = request.break_at_step, request.shard or 0
    config, now, receipt, checkpoint = _source(request, at, say)
    if shard >= config.num_shards:
        raise InputError(f"--shard is {shard}: the run has shards 0 to {config.num_shards - 1}")
    directory = Path(request.resume) if request.resume else None
    run = prepare_run(config, communicator, say, directory=directory)
    warn_of_changes(receipt, run, say)
    last = RunSchedule(now, run.dataset.examples["train"]).total_steps - (not request.resume)
    if at > last:  # the last one of a run that failed in its last test has only that test to replay
        raise InputError(f"--break-at-step is {at}: the run has steps 0 to {last}")
    state = restore_checkpoint(run, checkpoint) if checkpoint else State()
    if request.debug:
        check_network(run, say)
    where = f"from step {state.step} to step {at}, shard {shard}"
    say(f"replay   {where}, in one process; nothing is written")
    loop = Loop(run, state)
    follow(loop, receipt, at, request.given.get("data"))
    if loop.is_over:
        say(f"replayed to the run's end, step {state.step}: no step is left to stop in")
        return

    def look_at_shard(position: Position, part: Part, lane: Lane) -> None:
        if (position.step, part.index) == (at, shard):
            say(
                "debugger: shard, microbatch, plan, parameters, step, epoch and step_of_epoch are"
                " here; n: next line, c: finish the step, q: leave"
            )
            look_around(*position, part, lane.microbatch, lane.plan, lane.plan.parameters.named())

    run.training_step.add_hook(look_at_shard)
    try:
        loop.go_to(at + 1, end_epoch=False)
    except bdb.BdbQuit:
        say("left the debugger")
    else:
        say(f"replayed step {at}: loss {loop.last_loss:.6g}")


def _source(
    request: Request, at: int, say: Report
) -> tuple[Config, Config, Receipt, Checkpoint | None]:
    """What to replay, with the flags that it had there, those it has now, and its checkpoint."""
    if not request.resume:
        return request.config, request.config, Receipt([]), None
    directory = existing_run(request.resume)
    stored, checkpoint = read_stored(directory, say, at_most=at, set_aside=False)
    now = merged_config(stored, request, directory)
    receipt = read_receipt(directory)
    config = receipt.configuration_at(checkpoint.step if checkpoint else 0)
    require_trust(config.own_code, directory, request.given, request.trust_model)
    require_outside(config.own_code.values(), directory)
    return for_replay(config, request.given.get("data")), now, receipt, checkpoint


def look_around(
    step: int,
    epoch: int,
    step_of_epoch: int,
    shard: Part,
    microbatch: Microbatch,
    plan: Plan,
    parameters: dict[str, Array],
) -> None:
    """Open the debugger here, where it shows the arguments; ``parameters`` are not updated yet."""
    with Span(DEBUG):
        Debugger().set_trace()


class Debugger(pdb.Pdb):
    """Where no more commands come (no terminal), the step goes on."""

    def do_EOF(self, argument: str) -> bool | None:
        return self.do_continue(argument)
