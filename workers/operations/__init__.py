"""What people do with projects, records, windows and settings; the jobs on them have rooms of their own."""
