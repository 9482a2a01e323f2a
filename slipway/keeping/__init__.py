"""How long a version is kept, where, and what may never be touched."""
