"""What people read: tables, pictures, best.json, and the report of a results folder."""
