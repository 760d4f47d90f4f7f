"""What a team gates on: the baseline, the Python call, the pytest plugin, and `sftspec init`."""
