"""What people say and answer for: approvals, waivers, break-glass, and proof of who spoke."""
