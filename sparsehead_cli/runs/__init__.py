"""What a run is: its settings and identity, its tables, its folder and checkpoint, and how settings become objects."""
