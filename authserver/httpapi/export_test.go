package httpapi

// Routes lists the surface as "GET /users".
func Routes() (list []string) {
	for _, r := range new(Server).routes() {
		list = append(list, r.method+" "+r.path)
	}
	return list
}
