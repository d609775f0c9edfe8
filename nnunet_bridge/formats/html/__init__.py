"""Pages of one offline file each: a comparison, a run, the quality of predictions."""
