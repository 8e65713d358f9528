"""`diminuendo completion`: the script that has a shell ask `cli.complete`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

_BASH = r"""
# source <(diminuendo completion bash)
_diminuendo_completion() {
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^:=]/} prefix="" kind value help
    local word=${line##*[[:space:]]}
    # bash takes what is behind : and = for a word of its own, and wants only that
    [[ -n $breaks && $word == *[$breaks]* ]] && prefix=${word%"${word##*[$breaks]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain)
                COMPREPLY+=("${value#"$prefix"}")
                [[ $value == *= ]] && compopt -o nospace 2>/dev/null
                ;;
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
        esac
    done < <(_DIMINUENDO_COMPLETE=bash_complete COMP_WORDS=$line COMP_CWORD= "$1" 2>/dev/null)
}
complete -o nosort -F _diminuendo_completion diminuendo
"""
_ZSH = r"""
#compdef diminuendo
# source <(diminuendo completion zsh)
_diminuendo() {
    local kind value help line="${(j: :)words[1,CURRENT]}"
    local -a found
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain) found+=("${value//:/\\:}${help:+:$help}") ;;
            dir) _path_files -/ ;;
            file) _path_files ;;
        esac
    done < <(_DIMINUENDO_COMPLETE=zsh_complete COMP_WORDS=$line COMP_CWORD= $words[1] 2>/dev/null)
    (( $#found )) && _describe -V diminuendo found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _diminuendo "$@"
else
    compdef _diminuendo diminuendo
fi
"""
_FISH = r"""
# diminuendo completion fish | source
function __diminuendo_complete
    set -l line (commandline -cp)
    for row in (env _DIMINUENDO_COMPLETE=fish_complete COMP_CWORD= "COMP_WORDS=$line" diminuendo 2>/dev/null)
        set -l cells (string split \t -- $row)
        switch $cells[1]
            case plain
                string join \t -- $cells[2..]
            case dir
                __fish_complete_directories (commandline -ct)
            case file
                __fish_complete_path (commandline -ct)
        end
    end
end
complete -c diminuendo -f -a '(__diminuendo_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(help="The shell that reads it.", show_default=False)
    ],
) -> None:
    """Print a script that has a shell complete commands, options, jobs, contexts, networks and folders.

    For bash, put `source <(diminuendo completion bash)` into ~/.bashrc; for zsh the same with zsh into ~/.zshrc,
    behind compinit; for fish `diminuendo completion fish | source` into ~/.config/fish/config.fish.
    """
    typer.echo(_SCRIPTS[shell].strip())
