"""How runs are executed elsewhere than in this process: worker processes, and Slurm."""
