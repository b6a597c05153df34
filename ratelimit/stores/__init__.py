"""Where the state of the limits lives. `base.Store` is the contract; `memory.MemoryStore` serves one process."""
