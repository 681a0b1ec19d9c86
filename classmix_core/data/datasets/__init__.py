"""One module a data set; each exports `load(root, config, roles)`."""
