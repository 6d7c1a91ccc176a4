"""Who may read and write what: declared, compared with what each site's policies say, granted for a while."""
