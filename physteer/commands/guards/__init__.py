"""What a run may import, what it lacks, and where libraries write."""
