"""`ernie-kg completion SHELL`: a script that completes commands and options, written from the tables of commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ernie_kg.stages import STAGES, VIEWS

BASH = """# ernie-kg completion, made by `ernie-kg completion bash`; source it in ~/.bashrc
_ernie_kg() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" first="${{COMP_WORDS[1]}}" second="${{COMP_WORDS[2]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "$first $second" in
{pairs}
        esac
        if [ -z "$words" ]; then
            case "$first" in
{singles}
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ "${{current#-}}" = "$current" ] && [ "$COMP_CWORD" -gt 1 ]; then
        COMPREPLY+=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _ernie_kg ernie-kg
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Which shell."""

    shell: Literal["bash", "zsh", "fish"] = "bash"
    """bash, zsh or fish."""


def completion(config: CompletionConfig) -> str:
    """The script for a shell; `source <(ernie-kg completion bash)` uses it at once."""
    if config.shell == "fish":
        return _fish()
    return (ZSH if config.shell == "zsh" else "") + _bash()


def options_of(command: str) -> list[str]:
    """Every option of a command as it is typed: `--graph`, `--training.max_steps`."""
    from ernie_kg.config import dotted_keys

    of = STAGES.get(command) or VIEWS[command]
    common = ["config", "dry-run"] if command in STAGES else []
    return [f"--{key}" for key in (*dotted_keys(of.config_class()), *common, "help", "debug")]


def _bash() -> str:
    commands = ["run", *STAGES, *VIEWS]
    firsts = list(dict.fromkeys(command.split()[0] for command in commands))
    pairs = [command for command in commands if " " in command]
    singles = {name: [] for name in firsts}
    for command in pairs:
        singles[command.split()[0]].append(command.split()[1])
    for command in commands:
        if " " not in command:
            singles[command] += ["--output", "--dry-run", "--debug"] if command == "run" else options_of(command)
    return BASH.format(
        commands=" ".join([*firsts, "--help", "--version"]),
        pairs="\n".join(f'            "{name}") words="{" ".join(options_of(name))}" ;;' for name in pairs),
        singles="\n".join(f'                {name}) words="{" ".join(words)}" ;;' for name, words in singles.items()),
    )


def _fish() -> str:
    """fish shows what each command is for."""
    lines = ["# ernie-kg completion, made by `ernie-kg completion fish`"]
    groups: dict[str, list[str]] = {}
    for command, of in {**STAGES, **VIEWS}.items():
        first, _, second = command.partition(" ")
        groups.setdefault(first, [])
        seen = f"__fish_seen_subcommand_from {first}"
        summary = of.summary.replace("'", "\\'")
        if second:
            groups[first].append(second)
            lines.append(f"complete -c ernie-kg -n '{seen}' -a '{second}' -d '{summary}'")
            seen += f"; and __fish_seen_subcommand_from {second}"
        lines += [f"complete -c ernie-kg -n '{seen}' -l '{option[2:]}'" for option in options_of(command)]
    heads = [f"complete -c ernie-kg -n __fish_use_subcommand -a '{first}'" for first in ["run", *groups]]
    return "\n".join(lines + heads) + "\n"
