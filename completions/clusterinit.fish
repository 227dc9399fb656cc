# fish completion of clusterinit; written by `cargo run --example manual`, not by hand.
complete -c clusterinit -n __fish_is_first_arg -a plan -d 'tell what would be done here, and why'
complete -c clusterinit -n __fish_is_first_arg -a status -d 'a table of the workers'
complete -c clusterinit -n __fish_is_first_arg -a healthcheck -d 'exit 0 if healthy, 1 if not'
complete -c clusterinit -n __fish_is_first_arg -a reload -d 'rolling restart'
complete -c clusterinit -n __fish_is_first_arg -a stop -d 'graceful stop'
complete -c clusterinit -n __fish_is_first_arg -a scale -d 'run N workers'
complete -c clusterinit -n __fish_is_first_arg -a restart -d 'replace the worker of one slot'
complete -c clusterinit -n __fish_is_first_arg -a send -d 'a message for Node programs'
complete -c clusterinit -n __fish_is_first_arg -l help -d 'the help text'
complete -c clusterinit -n __fish_is_first_arg -l version -d 'the version'
complete -c clusterinit -n '__fish_seen_subcommand_from status' -l json
complete -c clusterinit -n '__fish_seen_subcommand_from status' -l watch
complete -c clusterinit -n '__fish_seen_subcommand_from status' -l addr -x
complete -c clusterinit -n '__fish_seen_subcommand_from healthcheck' -l ready
complete -c clusterinit -n '__fish_seen_subcommand_from healthcheck' -l addr -x
complete -c clusterinit -n '__fish_seen_subcommand_from send' -a all
