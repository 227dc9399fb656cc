# bash completion of clusterinit; written by `cargo run --example manual`, not by hand.
_clusterinit() {
  local words=
  if ((COMP_CWORD == 1)); then
    words='plan status healthcheck reload stop scale restart send --help --version'
  else
    case ${COMP_WORDS[1]} in
      status) words='--json --watch --addr' ;;
      healthcheck) words='--ready --addr' ;;
      send) ((COMP_CWORD == 2)) && words=all ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o default -F _clusterinit clusterinit
