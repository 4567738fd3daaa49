"""Where data sets come from: what is known of each, and how it gets to the disk and is checked."""
