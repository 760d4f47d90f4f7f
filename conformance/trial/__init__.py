"""What puts a trainer on trial: the jobs it is given, the processes, the judge."""
