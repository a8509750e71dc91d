// Sends requests with the API key; if the service requires one, asks the person for it once.
let key = "";

export async function authorised(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status !== 401) return response;
  key = prompt("This service requires an API key.") ?? "";
  return key ? authorised(path, options) : response;
}
