package httpapi

import "slices"

// Routes returns all routes, such as "GET /users".
func Routes() (list []string) {
	for _, r := range new(Server).routes() {
		list = append(list, r.method+" "+r.path)
	}
	return list
}

// DocumentedReasons returns the rows of reasons.go.
func DocumentedReasons() (list, fields []string) {
	for _, r := range reasons {
		list = append(list, string(r.reason))
	}
	for _, f := range fieldReasons {
		fields = append(fields, string(f.reason))
	}
	return list, fields
}

// Routes returns the routes of administrators, such as "GET /admin/users".
func (a *Admin) Routes() []string { return slices.Clone(a.routes) }
