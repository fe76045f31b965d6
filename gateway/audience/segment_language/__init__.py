"""The segment language: expressions over devices, such as `'store-7' in tags && attributes.model == 'K2'`."""
