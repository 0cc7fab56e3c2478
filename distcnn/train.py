"""Train a network: ``mpirun -n 4 python -m distcnn.train``, or ``python -m distcnn.train`` in one process, the same bits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from distcnn.command import run_command
from distcnn.config import make_parser, parse_config
from distcnn.datasets.mnist import SAMPLE_NAME, SAMPLE_NOTICE
from distcnn.parallel import Communicator, on_root
from distcnn.parallel.threads import THREADS_PER_RANK, blas_description
from distcnn.training.loop import train
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.run_directory import NoRunDirectory, RunDirectory, create_run_directory
from distcnn.training.setup import Run, prepare_run, total_steps


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command("distcnn.train", lambda: make_parser().print_help(), train_command, arguments)


def train_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Parse, prepare, train, say what came out."""
    config = on_root(communicator, lambda: parse_config(arguments))
    progress = Progress() if communicator.rank == 0 else NoProgress()
    run = prepare_run(config, communicator, progress.say)
    path = on_root(communicator, lambda: create_run_directory(config))
    directory = RunDirectory(path) if communicator.rank == 0 else NoRunDirectory()

    progress.say(headline(run, path))
    progress.start(total_steps(run))
    try:
        result = train(run, directory, progress)
    finally:
        progress.close()
    progress.say(
        f"test accuracy {result['test_accuracy']:.4f} ({result['test_correct']} of {result['test_examples']}) "
        f"after {result['steps']} steps, {result['train_seconds']:.1f} s, {result['images_per_second']:,.0f} images/s\n"
        f"weights {result['params_sha256']}\n"
        f"results in {path}"
    )


def headline(run: Run, path: Path) -> str:
    """What runs: model, data, batch, ranks, threads, and where the results will lie."""
    config, dataset, world = run.config, run.dataset, run.communicator
    channels, height, width = dataset.image_shape
    lines = [
        f"model    {config.model}, {run.network.values.size:,} parameters",
        f"data     {dataset.name} ({dataset.path}): {dataset.examples['train']:,} training and {dataset.examples['test']:,} test images, "
        f"{channels}x{height}x{width}, {dataset.classes} classes",
        *([f"notice   {SAMPLE_NOTICE}"] if dataset.name == SAMPLE_NAME else []),
        f"batch    {config.num_shards} shards x {config.microbatch_size} examples = {config.global_batch_size} a step, "
        f"{config.reduction} sum",
        f"update   {config.optimizer}, learning rate {config.learning_rate:g}, {config.schedule}, seed {config.seed}",
        f"ranks    {world.world_size} ({world.description}), {THREADS_PER_RANK} BLAS thread each ({blas_description()})",
        f"results  {path}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
