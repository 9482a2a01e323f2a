"""What the world says of a candidate when it is judged: advisories, licences, git, and whether it can be served."""
