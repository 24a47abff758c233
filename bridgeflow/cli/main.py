"""The entry of the command line. It imports click and nothing heavier."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from bridgeflow import __version__
from bridgeflow.cli.output import with_stdout_for_results
from bridgeflow.errors import PluginWarning
from bridgeflow.sentences import printable_lines, tidy

COMMANDS = {
    "train": ("bridgeflow.cli.train:train", "Train a bridge on the embedded data or your own."),
    "run": ("bridgeflow.cli.run:run", "Run a model on files, folders, text or lines of stdin."),
    "eval": ("bridgeflow.cli.evaluate:evaluate", "Score a checkpoint on held-out data."),
    "tune-sampler": ("bridgeflow.cli.tuning:tune_sampler", "Find the cheapest good way to sample from a checkpoint."),
    "study": ("bridgeflow.cli.study:study", "Train and score a set of runs, and say which claims hold."),
    "fit": ("bridgeflow.cli.fit:fit", "Fit the codec of a modality to data."),
    "cache": ("bridgeflow.cli.caching:cache", "Encode data once, to train on without the codecs."),
    "reflow": ("bridgeflow.cli.reflow:reflow", "Run a model's flows once, to train a straighter one on their ends."),
    "data": ("bridgeflow.cli.data:data", "Look at data before training does."),
    "export": ("bridgeflow.cli.exporting:export", "Make a checkpoint fit to be given away."),
    "import": ("bridgeflow.cli.importing:importing", "Turn a published checkpoint into one of bridgeflow's."),
    "tasks": ("bridgeflow.cli.listings:tasks", "See the installed tasks."),
    "recipes": ("bridgeflow.cli.listings:recipes", "See the installed recipes."),
    "plugins": ("bridgeflow.cli.listings:plugins", "See the installed plugins and who offers them."),
    "inspect": ("bridgeflow.cli.inspect:inspect", "Tell what a checkpoint holds."),
    "doctor": ("bridgeflow.cli.doctor:doctor", "Check this installation and machine."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; its help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return with_stdout_for_results(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests the nearest command for an unknown one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no command {args[0]!r}.{hint} Commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bridgeflow")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """One flow-matching engine that maps any source modality to any target modality.

    \b
    bridgeflow train --task depth
    bridgeflow run --task depth photo.jpg
    """
    ctx.obj = {"debug": debug}


def main() -> NoReturn:
    """Runs the command line: a user's mistake is one sentence and an exit code, never a traceback."""
    code = invoke(sys.argv[1:])
    if "LOCAL_RANK" in os.environ:
        # One of several processes of a run. Threads of torch's process group outlive it, and one that asks for the
        # interpreter while that is taken down aborts the process: the launcher would call a finished run failed.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _usage_sentence(error: click.ClickException) -> str:
    """click's message as one line in our form; the help where a group was called without a command."""
    message = error.format_message()
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        return message
    end = "" if message.endswith(("?", ".")) else "."
    context = getattr(error, "ctx", None)
    hint = f" See: {context.command_path} --help." if context is not None else ""
    return f"bridgeflow: {message}{end}{hint}"


@contextlib.contextmanager
def _plugin_warnings_in_a_sentence() -> Iterator[None]:
    """Shows warnings of plugins without Python's file and line, and those of one of several processes alone."""
    before = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, PluginWarning):
            before(message, category, *place, **options)
        elif os.environ.get("RANK", "0") == "0":
            print(tidy(f"warning: {message}"), file=sys.stderr)

    warnings.showwarning = shown
    try:
        yield
    finally:
        warnings.showwarning = before


def invoke(arguments: list[str]) -> int:
    """The exit code of a command line: 0 done, 1 failed, 2 wrong usage."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # A damaged picture gets a sentence of ours.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names need not be UTF-8, and no name is a reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _plugin_warnings_in_a_sentence():
            result = cli.main(args=arguments, prog_name="bridgeflow", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        print("bridgeflow: stopped.", file=sys.stderr)
        return 130
    except click.ClickException as error:
        if debug:
            raise
        print(printable_lines(_usage_sentence(error)), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bridgeflow: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        from bridgeflow.errors import BridgeflowError

        if debug:
            raise
        if isinstance(error, BridgeflowError):
            print(f"bridgeflow: {error}", file=sys.stderr)
            return error.exit_code
        if isinstance(error, OSError) and error.filename:
            print(tidy(f"bridgeflow: {error.filename}: {error.strerror}."), file=sys.stderr)
            return 1
        from bridgeflow.registry import blame, one_line

        sentence = blame.sentence_on(error)
        if sentence is not None:
            print(tidy(f"bridgeflow: {sentence}"), file=sys.stderr)
            return 1
        print(
            f"bridgeflow: something unforeseen went wrong ({tidy(one_line(error))}); "
            "run it again with --debug and report what it shows.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    main()
