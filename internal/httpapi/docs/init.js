// Paths are relative, so that the page also works below a proxy's prefix.
// validatorUrl is null because Swagger UI would otherwise ask another host.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
