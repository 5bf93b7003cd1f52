"""One side kept on disk, and held against another one later, or on another machine."""
