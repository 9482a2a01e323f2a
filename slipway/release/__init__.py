"""From a registered candidate to the champion, or back: by proof, a share of the traffic at a time."""
