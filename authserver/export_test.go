package authserver

import "context"

// CleanUp does now what housekeeping does every minute.
func (s *Server) CleanUp(ctx context.Context) { s.cleanUp(ctx) }
