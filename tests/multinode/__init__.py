"""Several machines, shown for real: network namespaces for hosts, the launchers' own commands on each."""
