"""Everything on one machine: embedded servers, supervision, the data folder, `up` and `down`."""
