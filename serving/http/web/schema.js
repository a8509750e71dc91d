// The description of this service in Swagger UI; nothing is loaded from elsewhere.
SwaggerUIBundle({ url: "/schema/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
