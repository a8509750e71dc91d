// Shows the OpenAPI description of this service in Swagger UI; loads nothing from other hosts.
SwaggerUIBundle({ url: "/schema/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
