"""What has made an output is told in the attributes of its group: `document` says which member has what."""
