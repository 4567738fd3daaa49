"""One static HTML page of sweeps: tables, figures, what is missing, the protocol, the commands.

``python -m dgbench.report --input_dir DIR [DIR ...] --output report.html``. The page needs no server and no
network; styles, script, figures and data are in it.
"""
